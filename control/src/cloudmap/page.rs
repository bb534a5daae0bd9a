//! Pagination: MaxResults and NextToken over rows in a fixed order.

use super::input::Input;
use crate::registry::{Error, invalid};

const TOKEN: &str = "NextToken";
const DEFAULT: u64 = 100;

/// Which part of a list is asked for.
pub(super) struct Page {
    after: Option<String>,
    max: usize,
}

impl Page {
    pub(super) fn read(input: &Input) -> Result<Self, Error> {
        let max = input.number("MaxResults", 1, DEFAULT)?.unwrap_or(DEFAULT);
        let token = input.text(TOKEN, 4096)?;
        let after = token
            .map(|token| {
                decode(token).ok_or_else(|| {
                    invalid(TOKEN, format!("{token:?} is not one that was given out"))
                })
            })
            .transpose()?;
        Ok(Self {
            after,
            max: usize::try_from(max).unwrap_or(usize::MAX),
        })
    }

    /// The rows of this page and the token of the next. Keys rise; a row that went away between two pages is no gap.
    pub(super) fn cut<T>(
        &self,
        rows: impl Iterator<Item = T>,
        key: impl Fn(&T) -> String,
    ) -> (Vec<T>, Option<String>) {
        let mut rows = rows.filter(|row| self.after.as_ref().is_none_or(|after| key(row) > *after));
        let page: Vec<T> = rows.by_ref().take(self.max).collect();
        let next = page
            .last()
            .filter(|_| rows.next().is_some())
            .map(|last| encode(&key(last)));
        (page, next)
    }
}

fn encode(key: &str) -> String {
    key.bytes()
        .fold("1".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn decode(token: &str) -> Option<String> {
    let digits = token.strip_prefix('1')?.as_bytes();
    let pairs = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    let key = String::from_utf8(pairs.collect::<Option<Vec<u8>>>()?).ok()?;
    (encode(&key) == token).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_back_and_anything_else_is_refused() {
        assert_eq!(decode(&encode("srv-ä/1")).as_deref(), Some("srv-ä/1"));
        for bad in ["", "x", "1zz", "1ff", "ä", "1+1"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    #[test]
    fn pages_cover_every_row_once_even_when_one_goes_away_in_between() {
        let first = Page {
            after: None,
            max: 2,
        };
        let (rows, next) = first.cut(["a", "b", "c", "d"].into_iter(), |row| (*row).to_owned());
        assert_eq!(rows, ["a", "b"]);
        let second = Page {
            after: next.as_deref().and_then(decode),
            max: 2,
        };
        let (rows, next) = second.cut(["a", "c", "d"].into_iter(), |row| (*row).to_owned());
        assert_eq!((rows, next), (vec!["c", "d"], None));
    }
}
