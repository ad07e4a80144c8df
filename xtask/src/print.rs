//! The printing macros of this program, under the names of the standard library's, which panic when their reader is gone.

macro_rules! println {
    () => { empssl_report::print::output("\n") };
    ($($text:tt)+) => { empssl_report::print::output(&(format!($($text)+) + "\n")) };
}
macro_rules! eprint {
    ($($text:tt)*) => { empssl_report::print::error(&format!($($text)*)) };
}
macro_rules! eprintln {
    ($($text:tt)*) => { empssl_report::print::error(&(format!($($text)*) + "\n")) };
}
