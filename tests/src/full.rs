//! Whether the longer forms of the tests are wanted: `cargo xtask test --full`.

/// Set in the environment of the tests by `cargo xtask test --full`.
pub const VARIABLE: &str = "M1_TESTS_FULL";

/// Whether to run the longer form of a test.
#[must_use]
pub fn wanted() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|value| value == "1")
}

/// `usual`, or `full` where the longer forms are wanted.
#[must_use]
pub fn or<T>(usual: T, full: T) -> T {
    if wanted() { full } else { usual }
}
