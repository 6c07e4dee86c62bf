//! Rules of this code base that neither the compiler nor clippy knows.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::project::Project;

/// Looks at every Rust file of the workspace.
///
/// # Errors
/// Names each file that breaks a rule, and the rule.
pub fn check(project: &Project) -> anyhow::Result<()> {
    let files = rust_files(project)?;
    let mut broken = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()))?;
        let path = file.strip_prefix(project.root()).unwrap_or(file);
        broken.extend(breaches(path, &text).map(|rule| format!("{}: {rule}", path.display())));
    }
    if broken.is_empty() { Ok(()) } else { bail!("{}", broken.join("\n")) }
}

fn breaches(path: &Path, text: &str) -> impl Iterator<Item = &'static str> {
    let in_the_core = path.starts_with("filter")
        && path != Path::new("filter/src/proxy.rs")
        && !path.starts_with("filter/src/proxy");
    // The word is written in two parts, for this file is looked at, too.
    let open_end = concat!("TO", "DO");
    [
        (
            !text.starts_with("//!"),
            "a module opens with `//!`: what comes in, what goes out, where it goes next",
        ),
        (
            in_the_core && code(text).any(|line| line.contains("proxy_wasm::")),
            "only filter/src/proxy may use `proxy_wasm`: all else is tested without a host",
        ),
        (text.contains(open_end), "nothing is left for later in the code"),
    ]
    .into_iter()
    .filter_map(|(broken, rule)| broken.then_some(rule))
}

fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// The files of the members, without what is built.
fn rust_files(project: &Project) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(project.root()).sort_by_file_name().into_iter().filter_entry(|entry| {
        let name = entry.file_name().to_string_lossy();
        entry.depth() == 0 || !(name.starts_with('.') || name == "target")
    }) {
        let entry = entry.context("cannot read the workspace's folder")?;
        if entry.path().extension().is_some_and(|extension| extension == "rs") {
            files.push(entry.into_path());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str) -> Vec<&'static str> {
        breaches(Path::new(path), text).collect()
    }

    #[test]
    fn only_the_shell_uses_the_sdk() {
        let text = "//! A module.\nuse proxy_wasm::types::Status;\n";
        assert_eq!(check("filter/src/proxy/root.rs", text), [] as [&str; 0]);
        assert_eq!(check("filter/src/proxy.rs", text), [] as [&str; 0]);
        assert_eq!(check("host-test/src/abi.rs", text), [] as [&str; 0]);
        assert_eq!(check("filter/src/batch.rs", text).len(), 1);
    }

    #[test]
    fn a_module_without_an_opening_is_named() {
        assert_eq!(check("filter/src/batch.rs", "use std::fmt;\n").len(), 1);
        assert_eq!(check("filter/src/batch.rs", "//! A batch.\n"), [] as [&str; 0]);
    }
}
