//! What is built of pickles by genuine Pythons, and what is refused.

use std::path::Path;

use empssl_golden::damage::Parser;

use super::*;

/// A committed pickle; `tests/data/make_pickles.py` made it.
fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)).unwrap()
}

fn reason(bytes: &[u8]) -> String {
    match Pickle::load(bytes) {
        Ok(_) => panic!("{} is not refused", bytes.escape_ascii()),
        Err(fault) => format!("{fault:?}"),
    }
}

/// A pickle of protocol 2 of a dict with one entry, whose value is made by `value`.
fn dict(value: &[u8]) -> Vec<u8> {
    [&b"\x80\x02}U\x01k"[..], value, b"s."].concat()
}

/// An array of `count` bytes as Python 2 pickles it, its type, shape and order given as opcodes.
fn array(element: &[u8], shape: &[u8], order: &[u8], data: &[u8]) -> Vec<u8> {
    let create = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01";
    let count = [data.len() as u8];
    [create, shape, b"cnumpy\ndtype\n(", element, b"K\x00K\x01tR", order, b"U", &count, data, b"tb"].concat()
}

#[test]
fn every_protocol_and_python_gives_the_same_records() {
    let files = [
        ("cifar-10-batches-py", "data_batch_1", "cifar-10-batches-bin/data_batch_1.bin"),
        ("cifar-10-batches-py", "data_batch_2", "cifar-10-batches-bin/data_batch_2.bin"),
        ("cifar-10-batches-py", "data_batch_3", "cifar-10-batches-bin/data_batch_3.bin"),
        ("cifar-10-batches-py", "data_batch_4", "cifar-10-batches-bin/data_batch_4.bin"),
        ("cifar-10-batches-py", "data_batch_5", "cifar-10-batches-bin/data_batch_5.bin"),
        ("cifar-10-batches-py", "test_batch", "cifar-10-batches-bin/test_batch.bin"),
        ("cifar-100-python", "train", "cifar-100-binary/train.bin"),
        ("cifar-100-python", "test", "cifar-100-binary/test.bin"),
    ];
    for (folder, name, records) in files {
        let (bytes, records) = (fixture(&format!("{folder}/{name}")), fixture(records));
        let pickle = Pickle::load(&bytes).unwrap_or_else(|fault| panic!("{name}: {fault:?}"));
        let keys: &[&str] = if folder.contains("100") { &["coarse_labels", "fine_labels"] } else { &["labels"] };
        let labels: Vec<Vec<i64>> = keys.iter().map(|key| pickle.integers(key).unwrap()).collect();
        let data = pickle.matrix("data").unwrap();
        assert_eq!((data.rows, data.columns), (2, 3072), "{name}");
        for row in 0..2 {
            let record = &records[row * (keys.len() + 3072)..][..keys.len() + 3072];
            let of_row: Vec<u8> = labels.iter().map(|labels| labels[row] as u8).collect();
            let built = [&of_row[..], &data.bytes[row * 3072..][..3072]].concat();
            assert!(built == record, "{name}, row {row}");
        }
        assert_eq!(pickle.names("filenames").unwrap(), ["image_000000.png", "image_000001.png"]);
    }
}

#[test]
fn functions_are_refused_by_name_and_place() {
    assert!(reason(b"cos\nsystem\n(S'true'\ntR.").contains("`os.system`, and only what stores numpy arrays"));
    assert!(reason(b"cos\nsystem\n.").ends_with("at byte 0\")"));
    let stacked = b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.";
    assert!(reason(stacked).contains("`builtins.eval`") && reason(stacked).contains("at byte 18"));
    for (module, name) in [("numpy", "load"), ("numpy.core.multiarray", "fromfile"), ("_codecs", "decode")] {
        assert!(reason(format!("c{module}\n{name}\n.").as_bytes()).contains(&format!("`{module}.{name}`")));
    }
}

#[test]
fn opcodes_that_make_objects_are_refused_by_code_and_place() {
    for opcode in [b'i', b'o', b'P', b'Q', 0x81, 0x82, 0x83, 0x84, 0x8b, 0x92, 0x97, 0x98, 0xff] {
        let reason = reason(&[&b"}}"[..], &[opcode], b"\0\0\0\0\0\n."].concat());
        assert!(reason.contains(&format!("opcode {opcode:#04x}")) && reason.contains("at byte 2"), "{reason}");
    }
}

#[test]
fn sets_and_what_is_dropped_or_doubled_are_followed() {
    let bytes = dict(b"(K\x01K\x020K\x032(K\x09\x910(K\x071\x8f(K\x01\x900l");
    assert_eq!(reason_or_integers(&bytes), Ok(vec![1, 3, 3]));
}

fn reason_or_integers(bytes: &[u8]) -> Result<Vec<i64>, Fault> {
    Pickle::load(bytes)?.integers("k")
}

#[test]
fn calls_of_what_is_no_function_and_of_functions_misused_are_refused() {
    let reasons: [(&[u8], &str); 9] = [
        (b"K\x01)R", "a call of something that is no function"),
        (b"cnumpy\nndarray\n)R", "an array made by its class"),
        (b"cnumpy.core.multiarray\n_reconstruct\n)R", "an array of a class of its own"),
        (b"cnumpy\ndtype\nU\x01O\x85R", "other than whole numbers"),
        (b"cnumpy\ndtype\nU\x02f4\x85R", "other than whole numbers"),
        (b"c_codecs\nencode\nX\x01\0\0\0aX\x04\0\0\0utf8\x86R", "an encoding other than Latin-1"),
        (b"c_codecs\nencode\nX\x03\0\0\0\xe2\x82\xacX\x06\0\0\0latin1\x86R", "a text that is not Latin-1"),
        (b"K\x01)b", "a state for what has none"),
        (b"K\x01K\x01b", "a state that is no tuple"),
    ];
    for (value, expected) in reasons {
        let reason = reason(&dict(value));
        assert!(reason.contains(expected), "{} gave {reason}", value.escape_ascii());
    }
}

#[test]
fn arrays_that_do_not_fit_together_are_refused() {
    let shape: &[u8] = b"K\x02K\x03\x86";
    /// Element, shape and order as opcodes, the number of bytes, and the complaint.
    type Case<'a> = (&'a [u8], &'a [u8], &'a [u8], usize, &'a str);
    let reasons: [Case; 8] = [
        (b"U\x02u1", shape, b"\x89", 5, "do not fit its shape"),
        (b"U\x02u2", shape, b"\x89", 6, "do not fit its shape"),
        (b"U\x02u1", b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86", b"\x89", 1, "an impossible size"),
        (b"U\x02u1", b"\x8a\x08\0\0\0\0\0\0\0\x40K\x08\x86", b"\x89", 0, "do not fit its shape"),
        (b"U\x02u1", b"(K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01t", b"\x89", 1, "too many axes"),
        (b"U\x02u1", b"K\x06", b"\x89", 6, "without shape or data"),
        (b"U\x02u1", shape, b"N", 6, "neither true nor false"),
        (b"U\x02c8", shape, b"\x89", 6, "other than whole numbers"),
    ];
    for (element, shape, order, count, expected) in reasons {
        let reason = reason(&dict(&array(element, shape, order, &vec![0; count])));
        assert!(reason.contains(expected), "{expected}: {reason}");
    }
}

#[test]
fn column_major_arrays_are_read_by_rows() {
    let bytes = dict(&array(b"U\x02u1", b"K\x02K\x03\x86", b"\x88", b"adbecf"));
    let pickle = Pickle::load(&bytes).unwrap();
    let matrix = pickle.matrix("k").unwrap();
    assert_eq!((matrix.rows, matrix.columns, &matrix.bytes[..]), (2, 3, &b"abcdef"[..]));
}

#[test]
fn labels_may_be_numpy_numbers_or_an_array_of_any_width_and_order() {
    let ordered = |name: &[u8], order: u8| {
        let state = [b"(K\x03U\x01", &[order][..], b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"].concat();
        [b"cnumpy\ndtype\n(U\x02", name, b"K\x00K\x01tR", &state].concat()
    };
    let scalar = [b"](cnumpy.core.multiarray\nscalar\n", &ordered(b"i2", b'>')[..], b"U\x02\xff\xfe\x86Re"].concat();
    let single = dict(&scalar);
    assert_eq!(Pickle::load(&single).unwrap().integers("k"), Ok(vec![-2]));
    let wide = dict(&array(b"U\x02i8", b"K\x02\x85", b"\x89", b"\x05\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"));
    assert_eq!(Pickle::load(&wide).unwrap().integers("k"), Ok(vec![5, -1]));
    let huge = dict(&array(b"U\x02u8", b"K\x01\x85", b"\x89", &[0xff; 8]));
    assert!(Pickle::load(&huge).unwrap().integers("k").is_err());
    let short = [b"cnumpy.core.multiarray\nscalar\n", &ordered(b"i4", b'<')[..], b"U\x02\0\0\x86R"].concat();
    assert!(reason(&dict(&short)).contains("a number of the wrong size"));
}

#[test]
fn numbers_and_strings_of_every_opcode() {
    let numbers = dict(
        b"(I01\nI-7\nL12345678901L\nK\xffM\x01\x02J\xfe\xff\xff\xff\x8a\x00\x8a\x01\x80\x8a\x03\x00\x00\x01\x88\x89l",
    );
    let expected = [1, -7, 12_345_678_901, 255, 513, -2, 0, -128, 65_536, 1, 0];
    assert_eq!(Pickle::load(&numbers).unwrap().integers("k").unwrap(), expected);
    let strings = dict(b"(S'a\\x62\\n\\r\\t\\\\\\''\nS\"c\"\nVd\\u00e9\\U0001f600\nU\x01fT\x01\0\0\0gC\x01hB\x01\0\0\0i\x8e\x01\0\0\0\0\0\0\0j\x96\x01\0\0\0\0\0\0\0kX\x01\0\0\0l\x8c\x01m\x8d\x01\0\0\0\0\0\0\0nl");
    let expected = ["ab\n\r\t\\'", "c", "d\u{e9}\u{1f600}", "f", "g", "h", "i", "j", "k", "l", "m", "n"];
    assert_eq!(Pickle::load(&strings).unwrap().names("k").unwrap(), expected);
    let wide = dict(b"(L99999999999999999999L\n\x8a\x09123456789l");
    assert!(Pickle::load(&wide).unwrap().integers("k").is_err());
    let others = dict(b"(G\0\0\0\0\0\0\0\0F1.5\nN)l");
    assert!(Pickle::load(&others).unwrap().integers("k").is_err());
}

#[test]
fn broken_values_are_refused() {
    let reasons: [(&[u8], &str); 9] = [
        (b"I1x\n", "`1x` is no whole number"),
        (b"I\n", "`` is no whole number"),
        (b"S'a\n", "without quotes"),
        (b"S'\\q'\n", "unknown escape in a string"),
        (b"V\\ud800\n", "unknown escape in a text"),
        (b"V\\u12\n", "unknown escape in a text"),
        (b"X\x01\0\0\0\xff", "not UTF-8"),
        (b"B\xff\xff\xff\xffabc", "4294967295 bytes are needed"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc", "bytes are needed"),
    ];
    for (value, expected) in reasons {
        let reason = reason(&dict(value));
        assert!(reason.contains(expected), "{} gave {reason}", value.escape_ascii());
    }
}

#[test]
fn a_machine_out_of_step_is_refused() {
    let reasons: [(&[u8], &str); 12] = [
        (b"", "1 bytes are needed and 0 are left"),
        (b".", "too few objects"),
        (b"}", "1 bytes are needed"),
        (b"l.", "no mark"),
        (b"}(s.", "too few objects"),
        (b"}(K\x01u.", "a key without a value"),
        (b"(K\x01d.", "a key without a value"),
        (b"K\x01K\x01a.", "items for something other than a list"),
        (b"K\x01K\x01K\x01s.", "keys for something other than a dict"),
        (b"h\x07.", "object 7 is used before it is made"),
        (b"p-1\n.", "a number out of range"),
        (b"].", "other than a dict"),
    ];
    for (bytes, expected) in reasons {
        let reason = reason(bytes);
        assert!(reason.contains(expected), "{} gave {reason}", bytes.escape_ascii());
    }
    assert!(reason(b"\x80\x04K\x01K\x01\x93.").contains("a function whose name is no text"));
}

#[test]
fn objects_and_encoded_bytes_are_counted() {
    assert!(reason(&vec![b'N'; 1 << 21]).contains("more than 1048576 objects at byte 1048576"));
    assert!(reason(&vec![b'('; 1 << 21]).contains("more than 1048576 objects"));
    let text = [b"c_codecs\nencode\nq\x00X\0\x01\0\0", &[b'a'; 256][..], b"X\x06\0\0\0latin1\x86q\x01R"].concat();
    let repeated = [&text[..], &b"h\x00h\x01R".repeat(3)].concat();
    assert!(reason(&repeated).contains("more encoded bytes than the file has"));
}

#[test]
fn deep_nesting_and_loops_neither_recurse_nor_leak() {
    let nested = [&b"}K\x01"[..], &vec![b'('; 300_000], &vec![b't'; 300_000], b"s."].concat();
    assert!(Pickle::load(&nested).is_ok());
    let looped = b"}q\x00K\x01h\x00s.";
    assert!(Pickle::load(looped).is_ok());
}

#[test]
fn a_dict_without_what_is_asked_for_says_so() {
    let bytes = dict(b"(K\x01U\x01al");
    let pickle = Pickle::load(&bytes).unwrap();
    let reasons = [pickle.integers("k").unwrap_err(), pickle.names("k").unwrap_err()];
    assert_eq!(reasons, [Fault::new("`k` is no list of whole numbers"), Fault::new("`k` is no list of names")]);
    assert_eq!(pickle.matrix("k").err(), Some(Fault::new("`k` is no array of unsigned bytes with two axes")));
    assert_eq!(pickle.matrix("q").err(), Some(Fault::new("it has no key `q`")));
    let long = dict(&[b"(U\xff", &[b'a'; 255][..], b"l"].concat());
    assert!(Pickle::load(&long).unwrap().names("k").is_err());
    let many = dict(&[&b"("[..], &b"U\x01a".repeat(1001), b"l"].concat());
    assert!(Pickle::load(&many).unwrap().names("k").is_err());
    let twice = b"}U\x01kK\x01sU\x01k]K\x05as.";
    assert_eq!(Pickle::load(twice).unwrap().integers("k"), Ok(vec![5]));
}

/// Loads a pickle and asks for everything in every way.
fn walk(bytes: &[u8]) -> bool {
    let Ok(pickle) = Pickle::load(bytes) else { return false };
    for key in ["data", "labels", "fine_labels", "label_names", "a"] {
        let _ = (pickle.integers(key), pickle.names(key));
        if let Ok(matrix) = pickle.matrix(key) {
            assert_eq!(matrix.rows * matrix.columns, matrix.bytes.len());
        }
    }
    true
}

/// With little data each, so that most changes hit the program; the first uses the rarer opcodes.
#[test]
fn damaged_pickles_neither_panic_nor_take_memory() {
    let rare = b"\x80\x02}(X\x04\0\0\0dataNU\x01aI01\nU\x01bL-5L\nV\\u00e9\nG\0\0\0\0\0\0\0\0S'\\x00'\n\x8a\x02\0\x01M\x01\x01\x88F1.\n)u.";
    let matrix = array(b"U\x02u1", b"K\x02K\x03\x86", b"\x89", b"abcdef");
    let small = [&b"\x80\x02}(U\x04data"[..], &matrix, b"U\x06labels](K\x03K\x09eu."].concat();
    let [meta, python_2, python_3] =
        ["batches.meta", "data_batch_1", "data_batch_5"].map(|name| fixture(&format!("cifar-10-batches-py/{name}")));
    let good = vec![rare.to_vec(), meta, small, python_2, python_3];
    // A byte may stand for an object of 64 bytes in a list that is growing, one reference on the stack and a memo.
    Parser { memory: [64 << 10, 320], ..Parser::new("pickle", walk, good) }.hold();
}
