//! Golden scripts: files that hold commands and what comes out of them, compared
//! with what comes out now. `UPDATE_GOLDEN=1` writes them anew.

use std::path::Path;

/// Runs every script of a directory below `src`; `run` gives a script back with
/// what comes out.
pub(crate) fn check_scripts(directory: &str, run: impl Fn(&str) -> String) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(directory);
    let mut scripts: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    for script in scripts {
        let expected = std::fs::read_to_string(&script).unwrap();
        let printed = run(&expected);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&script, printed).unwrap();
        } else {
            assert_eq!(printed, expected, "{}", script.display());
        }
    }
}
