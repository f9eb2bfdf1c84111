//! Error numbers of hypercalls (`xen/include/public/errno.h`).

use core::fmt;

/// A positive error number; hypercalls return it negated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident = $number:literal $what:literal),* $(,)?) => {
        impl Errno {
            $(#[doc = $what] pub const $name: Self = Self($number);)*

            /// The name without its E, if it is one of those above.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 { $($number => Some(stringify!($name)),)* _ => None }
            }
        }
    };
}

errnos! {
    PERM = 1 "Operation not permitted.",
    NOENT = 2 "No such entry.",
    SRCH = 3 "No such domain.",
    IO = 5 "Input/output error.",
    NXIO = 6 "No such device or address.",
    TOOBIG = 7 "Argument list too long.",
    BADF = 9 "Bad number.",
    AGAIN = 11 "Try again.",
    NOMEM = 12 "Out of memory.",
    ACCES = 13 "Permission denied.",
    FAULT = 14 "Bad address: an argument is not in mapped guest memory.",
    BUSY = 16 "Busy.",
    EXIST = 17 "Exists already.",
    XDEV = 18 "Crosses devices.",
    NODEV = 19 "No such device.",
    INVAL = 22 "Invalid argument.",
    NOSPC = 28 "No space: no free port, no free slot.",
    RANGE = 34 "Out of range.",
    NOSYS = 38 "No such operation.",
    OPNOTSUPP = 95 "Operation not supported.",
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "E{name}"),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl core::error::Error for Errno {}
