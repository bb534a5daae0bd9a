//! Files with secrets: written whole or not at all, read by nobody else, and refused where others could have read them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use super::IdentityError;

/// The largest file that is read: far more than any chain of certificates.
const MAX_FILE: u64 = 1024 * 1024;

/// Replaces a file with one that only its owner can read (0600); it is on disk when this returns.
pub(super) fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// Reads what nobody else may read: refused if the file is another user's, or its mode lets group or others in.
pub(super) fn read_private(what: &str, path: &Path) -> Result<Zeroizing<String>, IdentityError> {
    let wrong = |reason: String| IdentityError::of(what, path, reason);
    let mut file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let metadata = file.metadata().map_err(|error| wrong(error.to_string()))?;
    let (mode, us) = (metadata.mode() & 0o777, rustix::process::geteuid());
    if mode & 0o077 != 0 {
        return Err(wrong(format!(
            "its mode is {mode:04o}, so that others may read or write it; say chmod 600"
        )));
    }
    if metadata.uid() != us.as_raw() {
        let (owner, us) = (metadata.uid(), us.as_raw());
        return Err(wrong(format!("belongs to user {owner}, and we are {us}")));
    }
    text(&mut file).map_err(|error| wrong(error.to_string()))
}

/// Refuses a directory whose files others may replace.
pub(super) fn check_folder(what: &str, path: &Path) -> Result<(), IdentityError> {
    let metadata = fs::metadata(path).map_err(|error| IdentityError::of(what, path, error))?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o022 == 0 {
        return Ok(());
    }
    let reason =
        format!("its mode is {mode:04o}, so that others may replace what is in it; say chmod go-w");
    Err(IdentityError::of(what, path, reason))
}

/// Reads a file without secrets.
pub(super) fn read_public(what: &str, path: &Path) -> Result<String, IdentityError> {
    let read = File::open(path).and_then(|mut file| text(&mut file));
    let read = read.map_err(|error| IdentityError::of(what, path, error))?;
    Ok(String::clone(&read))
}

fn text(file: &mut File) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_that_others_may_read_is_refused_with_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        write_private(&path, b"s3cret").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(*read_private("key", &path).unwrap(), "s3cret");
        for open in [0o640, 0o604, 0o620, 0o644] {
            fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
            let refused = read_private("key", &path).unwrap_err().to_string();
            assert!(refused.contains(&format!("{open:04o}")), "{refused}");
            assert!(!refused.contains("s3cret"), "{refused}");
        }
        write_private(&path, b"other").unwrap();
        assert_eq!(*read_private("key", &path).unwrap(), "other");
        assert_eq!(mode(&path), 0o600);
    }
}
