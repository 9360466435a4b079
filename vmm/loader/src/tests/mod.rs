//! Unit tests: what is accepted, what is rejected, how it is laid out, what the report says.

mod accept;
mod map;
mod reject_directories;
mod reject_headers;
mod reject_sections;
mod report;

use abi::DriverAbi;

use crate::Image;
use crate::builder::{Builder, Built};

/// Asserts that the image, changed by `change`, is rejected with a message that begins with `expected`: name,
/// file offset and value of the field, and the reason.
#[track_caller]
fn assert_rejected(builder: Builder, change: impl FnOnce(&mut Built), expected: &str) {
    let mut built = builder.build();
    Image::parse(&built.bytes).expect("the unchanged image is valid");
    change(&mut built);
    let error = Image::parse(&built.bytes).expect_err("the changed image is invalid");
    let message = error.to_string();
    assert!(
        message.starts_with(expected),
        "expected: {expected}\n     got: {message}"
    );
}

const I386: Builder = Builder::new(DriverAbi::I386);
const AMD64: Builder = Builder::new(DriverAbi::Amd64);

/// One test for each rejection: `name: image, |image| change => "FIELD at OFFSET is VALUE, reason"`.
macro_rules! rejections {
    ($($name:ident: $builder:expr, |$built:ident| $change:expr => $expected:expr;)*) => {
        $(
            #[test]
            fn $name() {
                $crate::tests::assert_rejected($builder, |$built| $change, $expected);
            }
        )*
    };
}
use rejections;
