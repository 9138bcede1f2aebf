//! Links between documents lead somewhere, and nothing speaks of one person's machine.

use std::path::Path;

use crate::source::files;

#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the tree");
    let mut wrong = Vec::new();
    for file in files().iter().filter(|file| file.path.ends_with(".md")) {
        let folder = root.join(&file.path);
        let folder = folder.parent().expect("a file lies in a folder");
        for link in links(&file.text) {
            let target = link.split('#').next().unwrap_or_default();
            if !link.contains("://") && !target.is_empty() && !folder.join(target).exists() {
                wrong.push(format!("{}: {link}", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "links to nowhere: {wrong:#?}");
}

/// The targets of `[text](target)`.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1);
    targets.filter_map(|rest| rest.split_once(')').map(|(target, _)| target)).collect()
}

#[test]
fn no_machine_is_named() {
    // In pieces, so that this file does not name one.
    let places = [["/wo", "rk/"], ["/tmp/tar", "get"], ["/ro", "ot/"], ["/ho", "me/"]];
    let places: Vec<String> = places.iter().map(|parts| parts.concat()).collect();
    let mut wrong = Vec::new();
    for file in files() {
        for (at, line) in file.text.lines().enumerate() {
            if places.iter().any(|place| names(line, place)) {
                wrong.push(format!("{}:{}: {line}", file.path, at + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whether an absolute path that starts with `place` is in the line.
fn names(line: &str, place: &str) -> bool {
    let continues = |c: char| c.is_alphanumeric() || "._-/}".contains(c);
    line.match_indices(place).any(|(at, _)| !line[..at].ends_with(continues))
}

#[test]
fn links_and_places_are_found() {
    assert_eq!(links("see [a](b.md) and [c](d#e)"), ["b.md", "d#e"]);
    assert!(names("in \"/place/x\"", "/place/") && !names("a/place/x", "/place/"));
}
