use std::collections::BTreeSet;

use super::*;

#[test]
fn the_demo_volume_has_the_packages_of_every_case() {
    let there: BTreeSet<_> = volume::demo_packages().iter().collect();
    for case in cases() {
        assert!(case.packages.iter().all(|package| there.contains(package)), "{}", case.name);
        let plain = |argument: &&str| !argument.contains([' ', '"', '\'']);
        assert!(
            case.arguments.iter().all(plain),
            "{}: an argument that a configuration would split",
            case.name
        );
    }
    let names: BTreeSet<_> = cases().iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases().len());
    let programs: BTreeSet<_> = cases().iter().map(|case| case.program).collect();
    assert!(programs.len() >= 10, "{programs:?}");
}

#[test]
fn every_case_runs_on_the_host_and_its_output_depends_on_its_input() {
    let (one, two) = (prepare(1).expect("a volume"), prepare(2).expect("a volume"));
    assert_ne!(one.volume.image, two.volume.image);
    for (one, two) in one.runs.iter().zip(&two.runs) {
        let shown = String::from_utf8_lossy(&one.stdout);
        println!("== {}\n{shown}", one.extra());
        assert_eq!(one.code, 0, "{}", one.case.name);
        assert_ne!(one.stdout, two.stdout, "{}", one.case.name);
        assert!(one.stdout.len() < 8192, "{}: {} bytes are too many", one.case.name, one.stdout.len());
        assert!(one.stdout.is_ascii() && !shown.contains("/target/") && !shown.contains("/tmp/"), "{shown}");
        one.check(&one.stdout, 0).expect("the same");
        assert!(one.check(&two.stdout, 0).is_err() && one.check(&one.stdout, 1).is_err());
    }
    let again = prepare(1).expect("a volume");
    assert_eq!(again.volume.image, one.volume.image);
    for (one, again) in one.runs.iter().zip(&again.runs) {
        assert_eq!(one.stdout, again.stdout, "{} gives the same twice", one.case.name);
    }
    for image in [one.volume.image, two.volume.image] {
        fs::remove_file(image).expect("a file");
    }
}

#[test]
fn a_difference_is_shown_by_its_line_and_carriage_returns_are_none() {
    let run = Run { case: cases()[0], stdout: b"one\ntwo\nthree\n".to_vec(), code: 0 };
    run.check(b"one\r\ntwo\r\nthree\r\n", 0).expect("the same");
    let error = run.check(b"one\ntwo\n", 0).expect_err("shorter").to_string();
    assert!(error.contains("line 3 is \"\", on Linux it is \"three\""), "{error}");
    assert_eq!(without(b"/a/b x /a/b/c", b"/a"), b"/b x /b/c");
}
