//! Writes the manual pages: `cargo run -p blat-cli --example man -- DIR` makes `DIR/blat.1` and one page a command.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use clap_mangen::Man;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = PathBuf::from(std::env::args_os().nth(1).ok_or("name the directory for the manual pages")?);
    fs::create_dir_all(&directory)?;
    let mut command = blat_cli::command();
    command.build();
    let source = format!("blat {}", command.get_version().unwrap_or_default());
    let pages = command.get_subcommands().filter(|page| !page.is_hide_set()).map(|page| {
        let name = format!("blat-{}", page.get_name());
        (page.clone().display_name(name.clone()), name)
    });
    for (page, name) in pages.collect::<Vec<_>>().into_iter().chain([(command.clone(), "blat".to_owned())]) {
        let mut text = Vec::new();
        Man::new(page).title(name.to_uppercase()).source(&source).manual("Blat").render(&mut text)?;
        fs::write(directory.join(format!("{name}.1")), with_usual_headings(&String::from_utf8(text)?))?;
    }
    Ok(())
}

/// What stands below the options in the help is one section in clap's pages; readers of manuals look for these names.
fn with_usual_headings(page: &str) -> String {
    page.replace(".SH EXTRA\nExit codes:\n", ".SH EXIT STATUS\n")
        .replace(".SH EXTRA\nExamples:\n", ".SH EXAMPLES\n")
        .replace("\nExamples:\n", "\n.SH EXAMPLES\n")
}
