//! Mutants stay out of releases: who may ask for them, and who may put one in.

use crate::source::{code_only, files, rust_files};

/// Crates that hold mutants: the feature stands there, and nothing enables it.
const HOLD_THEM: &[&str] =
    &["server/core/Cargo.toml", "server/storage/Cargo.toml", "server/Cargo.toml"];
/// The crate that hunts them, by a feature of its own.
const HUNTS_THEM: &str = "tests/sim/Cargo.toml";

#[test]
fn nothing_asks_for_mutants_but_the_simulator() {
    let mut wrong = Vec::new();
    for file in files().iter().filter(|file| file.path.ends_with("Cargo.toml")) {
        let may_offer = HOLD_THEM.contains(&file.path.as_str()) || file.path == HUNTS_THEM;
        wrong.extend(asked_for(&file.text, may_offer).map(|line| format!("{}: {line}", file.path)));
    }
    assert!(wrong.is_empty(), "these lines could bring mutants into a release: {wrong:#?}");
}

#[test]
fn only_the_simulator_puts_one_in() {
    let puts_in = |text: &str| code_only(text).contains("mutants::select");
    let wrong: Vec<String> = rust_files()
        .into_iter()
        .filter(|file| !file.path.starts_with("tests/sim/") && puts_in(&file.text))
        .map(|file| file.path)
        .collect();
    assert!(wrong.is_empty(), "only the simulator selects a mutant: {wrong:#?}");
}

#[test]
fn each_mutant_has_its_place() {
    let (list, product): (Vec<_>, Vec<_>) = rust_files()
        .into_iter()
        .filter(|file| file.path.starts_with("server/"))
        .partition(|file| file.path == "server/core/src/mutants.rs");
    let names = list.iter().flat_map(|file| file.text.lines()).filter_map(|line| {
        let (name, text) = line.trim().split_once(" = \"")?;
        text.ends_with("\",").then_some(name)
    });
    let names: Vec<&str> = names.collect();
    assert!(names.len() >= 25, "the mutants were not found: {names:?}");
    let stands = |name: &str| {
        let condition = format!("active(Mutant::{name})");
        product.iter().any(|file| file.text.contains(&condition))
    };
    let gone: Vec<_> = names.into_iter().filter(|name| !stands(name)).collect();
    assert!(gone.is_empty(), "these mutants stand nowhere in the product: {gone:?}");
}

/// Lines of a manifest that name the feature, other than one that offers it where that is allowed. Features that
/// cargo enables unasked, and those that a dependency is given, are never such a line.
fn asked_for(manifest: &str, may_offer: bool) -> impl Iterator<Item = &str> {
    let mut in_features = false;
    manifest.lines().filter(move |line| {
        if line.starts_with('[') {
            in_features = *line == "[features]";
        }
        let names_it = line.contains("mutants") && !line.starts_with('#');
        let offers = in_features && line.starts_with("mutants = [");
        // A test's name, and that it is left out without the feature.
        let of_a_test = matches!(*line, "name = \"mutants\"" | "required-features = [\"mutants\"]");
        names_it && !(may_offer && (offers || of_a_test))
    })
}

#[test]
fn manifests_are_searched() {
    let found = |manifest, may_offer| asked_for(manifest, may_offer).count();
    let offers = "[features]\n# mutants\nmutants = [\"kvd-core/mutants\"]\n";
    assert_eq!((found(offers, true), found(offers, false)), (0, 1));
    let enables = "[features]\ndefault = [\"mutants\"]\ntesting = [\"kvd/mutants\"]\n";
    assert_eq!(found(enables, true), 2);
    let depends = "[dependencies]\nkvd = { workspace = true, features = [\"mutants\"] }\n";
    assert_eq!((found(depends, true), found(depends, false)), (1, 1));
}
