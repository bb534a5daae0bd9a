//! The results of `compare` for people: one HTML page that needs nothing else, and a Markdown table for the README.

mod chart;
mod markdown;
mod medians;
mod page;

use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::compare::results::Results;

/// What the command line may change.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// What `compare` wrote
    pub results: PathBuf,
    /// Write the page here
    #[arg(long)]
    pub html: Option<PathBuf>,
    /// Print the Markdown table
    #[arg(long)]
    pub markdown: bool,
}

/// Reads the results and writes what was asked for.
pub fn run(options: &Options) -> anyhow::Result<()> {
    if options.html.is_none() && !options.markdown {
        bail!("nothing to write: give --html FILE, --markdown, or both");
    }
    let path = options.results.display();
    let text = std::fs::read_to_string(&options.results).with_context(|| path.to_string())?;
    let results: Results = serde_json::from_str(&text)
        .with_context(|| format!("{path} is not what compare writes"))?;
    if let Some(html) = &options.html {
        std::fs::write(html, page::render(&results)).with_context(|| html.display().to_string())?;
    }
    if options.markdown {
        print!("{}", markdown::render(&results));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
