//! Linux's error numbers (`include/uapi/asm-generic/errno-base.h` and `errno.h`).

/// A Linux error number, positive. A system call returns it negated in `rax`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Errno(pub u16);

macro_rules! numbers {
    ($($name:ident = $number:literal,)*) => {
        #[expect(missing_docs, reason = "the names are Linux's own")]
        impl Errno { $(pub const $name: Self = Self($number);)* }

        impl Errno {
            /// The symbolic name, `E…`; `?` for a number that this kernel never returns.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self.0 {
                    $($number => concat!("E", stringify!($name)),)*
                    _ => "?",
                }
            }
        }
    };
}

numbers! {
    PERM = 1, NOENT = 2, SRCH = 3, INTR = 4, IO = 5, NXIO = 6, TOOBIG = 7, NOEXEC = 8, BADF = 9, CHILD = 10,
    AGAIN = 11, NOMEM = 12, ACCES = 13, FAULT = 14, NOTBLK = 15, BUSY = 16, EXIST = 17, XDEV = 18, NODEV = 19,
    NOTDIR = 20, ISDIR = 21, INVAL = 22, NFILE = 23, MFILE = 24, NOTTY = 25, TXTBSY = 26, FBIG = 27, NOSPC = 28,
    SPIPE = 29, ROFS = 30, MLINK = 31, PIPE = 32, DOM = 33, RANGE = 34, NAMETOOLONG = 36, NOSYS = 38,
    NOTEMPTY = 39, LOOP = 40, NODATA = 61, NOTSOCK = 88, OVERFLOW = 75, OPNOTSUPP = 95, AFNOSUPPORT = 97, TIMEDOUT = 110,
    RESTARTSYS = 512,
}

/// What a system call gives: a word for `rax`, or an error.
pub(crate) type SysResult = Result<u64, Errno>;

impl From<alloc::collections::TryReserveError> for Errno {
    fn from(_: alloc::collections::TryReserveError) -> Self {
        Self::NOMEM
    }
}
