//! Files that genuine PyTorchs wrote, and files that no PyTorch would.

use std::io::Write;
use std::path::Path;

use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

use super::*;

/// A committed file; `tests/data/make_torch.py` made it.
fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)).unwrap()
}

/// An archive like that of `torch.save`, with one storage of four float32 numbers, 0 to 3, named `0`.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let numbers: Vec<u8> = [0.0_f32, 1.0, 2.0, 3.0].iter().flat_map(|number| number.to_le_bytes()).collect();
    archive_of(&[("x/data.pkl", pickle), ("x/byteorder", b"little"), ("x/data/0", &numbers)], CompressionMethod::Stored)
}

fn archive_of(parts: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in parts {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A storage of `length` numbers of a class of the module `torch`, as opcodes.
fn storage(class: &str, key: &str, length: u8) -> Vec<u8> {
    let key = [b"X", &(key.len() as u32).to_le_bytes()[..], key.as_bytes()].concat();
    let head = format!("(X\x07\0\0\0storagectorch\n{class}\n");
    [head.as_bytes(), &key, b"X\x03\0\0\0cpuK", &[length], b"tQ"].concat()
}

/// A tensor: its storage, offset, size and strides as opcodes.
fn tensor(storage: &[u8], offset: &[u8], size: &[u8], strides: &[u8]) -> Vec<u8> {
    let hooks = b"\x89ccollections\nOrderedDict\n)RtR";
    [&b"ctorch._utils\n_rebuild_tensor_v2\n("[..], storage, offset, size, strides, hooks].concat()
}

/// A pickle of a dict with the entry `w`.
fn dict(value: &[u8]) -> Vec<u8> {
    [&b"\x80\x02}X\x01\0\0\0w"[..], value, b"s."].concat()
}

fn good() -> Vec<u8> {
    tensor(&storage("FloatStorage", "0", 4), b"K\x00", b"K\x04\x85", b"K\x01\x85")
}

#[track_caller]
fn reason(bytes: &[u8]) -> String {
    read(bytes).expect_err("the file is not refused").to_string()
}

#[track_caller]
fn refuses(pickle: &[u8], expected: &str) {
    let reason = reason(&archive(pickle));
    assert!(reason.contains(expected), "{expected}: {reason}");
}

fn by_name<'c>(checkpoint: &'c Checkpoint<'_>, name: &str) -> &'c Tensor<'c> {
    checkpoint.tensors.iter().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("there is no {name}"))
}

fn floats(tensor: &Tensor<'_>) -> Vec<f32> {
    tensor.bytes().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

#[test]
fn every_type_and_view_is_read_in_both_forms() {
    for name in ["views.pt", "views-legacy.pt"] {
        let bytes = fixture(name);
        let file = read(&bytes).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        let order: Vec<_> = file.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(order[..5], ["grid", "turned", "column", "part", "trained"]);
        assert_eq!((file.beside.len(), file.foreign.len(), order.len()), (0, 0, 15));
        let grid = by_name(&file, "grid");
        assert_eq!((grid.element, &grid.shape[..]), (Element::F32, &[3, 4][..]));
        assert_eq!(floats(grid), (0..12).map(|n| n as f32).collect::<Vec<_>>());
        let turned = by_name(&file, "turned");
        assert_eq!(turned.shape, [4, 3]);
        assert_eq!(floats(turned)[..5], [0.0, 4.0, 8.0, 1.0, 5.0]);
        assert_eq!(floats(by_name(&file, "column")), [2.0, 6.0, 10.0]);
        assert_eq!(floats(by_name(&file, "part")), [5.0, 6.0, 9.0, 10.0]);
        assert_eq!(floats(by_name(&file, "trained")), [1.5, -2.5]);
        let scalar = by_name(&file, "scalar");
        assert_eq!((scalar.element, scalar.shape.len(), scalar.bytes()), (Element::I64, 0, 7_i64.to_le_bytes().into()));
        assert_eq!((&by_name(&file, "empty").shape[..], by_name(&file, "empty").bytes().len()), (&[0, 4][..], 0));
        let bytes = |name: &str, element| {
            let tensor = by_name(&file, name);
            assert_eq!(tensor.element, element, "{name}");
            tensor.bytes()
        };
        assert_eq!(bytes("f64", Element::F64), 0.1_f64.to_le_bytes());
        assert_eq!(bytes("f16", Element::F16), [0x00, 0x38, 0x00, 0xbc]);
        assert_eq!(bytes("bf16", Element::Bf16), [0x00, 0x3f, 0x80, 0xbf]);
        assert_eq!(bytes("i32", Element::I32), [0xfe, 0xff, 0xff, 0xff, 3, 0, 0, 0]);
        assert_eq!(bytes("i16", Element::I16), [0xfe, 0xff, 3, 0]);
        assert_eq!(bytes("i8", Element::I8), [0xfe, 3]);
        assert_eq!(bytes("u8", Element::U8), [2, 255]);
        assert_eq!(bytes("bool", Element::Bool), [1, 0]);
    }
}

#[test]
fn both_forms_of_a_network_hold_the_same_weights() {
    let (new, old) = (fixture("official.pt"), fixture("official-legacy.pt"));
    let (new, old) = (read(&new).unwrap(), read(&old).unwrap());
    assert_eq!(new.tensors.len(), old.tensors.len());
    assert!(new.tensors[0].name.starts_with("module.backbone.conv1"));
    let same = |(a, b): (&Tensor<'_>, &Tensor<'_>)| (&a.name, &a.shape, a.bytes()) == (&b.name, &b.shape, b.bytes());
    assert!(new.tensors.iter().zip(&old.tensors).all(same));
}

#[test]
fn settings_beside_the_weights_stay_names() {
    let bytes = fixture("settings.ckpt");
    let file = read(&bytes).unwrap();
    assert_eq!(file.beside, ["hyper_parameters"]);
    assert_eq!(floats(by_name(&file, "w")), [1.0, 1.0]);
    for name in ["omegaconf.dictconfig.DictConfig", "omegaconf.dictconfig.Kind", "argparse.Namespace", "torch.Size"] {
        assert!(file.foreign.iter().any(|foreign| foreign == name), "{name}: {:?}", file.foreign);
    }
    let bytes = fixture("solo.ckpt");
    let file = read(&bytes).unwrap();
    assert!(file.beside.iter().any(|key| key == "pytorch-lightning_version"), "{:?}", file.beside);
    assert_eq!(by_name(&file, "backbone.conv1.weight").shape, [1, 3, 3, 3]);
}

#[test]
fn a_dict_of_python_2_and_a_part_of_a_storage_are_read() {
    let pairs = [&b"\x80\x02ccollections\nOrderedDict\n](](U\x01w"[..], &good(), b"ee\x85R."].concat();
    assert_eq!(floats(&read(&archive(&pairs)).unwrap().tensors[0]), [0.0, 1.0, 2.0, 3.0]);
    let whole = storage("FloatStorage", "0", 4);
    let part = [&whole[..whole.len() - 2], b"(U\x01pK\x02K\x02ttQ"].concat();
    let part = dict(&tensor(&part, b"K\x01", b"K\x01\x85", b"K\x01\x85"));
    assert_eq!(floats(&read(&archive(&part)).unwrap().tensors[0]), [3.0]);
}

#[test]
fn what_reaches_out_of_data_is_refused_by_name_and_place_wherever_it_stands() {
    let system = b"cposix\nsystem\nX\x04\0\0\0true\x85R";
    refuses(&dict(system), "it would have Python reach for `posix.system`");
    refuses(&dict(system), "is refused at byte 9");
    refuses(&[b"\x80\x02", &system[..], b"0}X\x01\0\0\0w", &good(), b"s."].concat(), "`posix.system`");
    let beside = [&b"}(X\x0a\0\0\0state_dict}X\x01\0\0\0w"[..], &good(), b"sX\x01\0\0\0c", system, b"u."].concat();
    refuses(&beside, "`posix.system`");
    for (module, name) in [
        ("os", "system"),
        ("builtins", "eval"),
        ("__builtin__", "getattr"),
        ("subprocess", "Popen"),
        ("importlib.util", "find_spec"),
        ("operator", "attrgetter"),
        ("torch.hub", "load"),
        ("collections", "OrderedDict.fromkeys"),
    ] {
        refuses(&dict(format!("c{module}\n{name}\n").as_bytes()), &format!("`{module}.{name}`"));
        let stacked = |text: &str| [&[0x8c, text.len() as u8][..], text.as_bytes()].concat();
        refuses(&dict(&[&stacked(module)[..], &stacked(name), b"\x93"].concat()), &format!("`{module}.{name}`"));
    }
    let long = format!("ca\n{}\n", "b".repeat(300));
    refuses(&dict(long.as_bytes()), "too long for a class");
}

#[test]
fn unknown_classes_have_no_place_among_weights() {
    let object = b"cmylib\nThing\n)\x81}b";
    refuses(&dict(object), "it holds no dict of tensors");
    let among = [&b"}(X\x01\0\0\0w"[..], &good(), b"X\x01\0\0\0o", object, b"u."].concat();
    refuses(&among, "it names `mylib.Thing`");
    let under = [&b"}X\x0a\0\0\0state_dict}(X\x01\0\0\0w"[..], &good(), b"X\x01\0\0\0o", object, b"us."].concat();
    refuses(&under, "`o` is a `mylib.Thing`, no tensor");
    let many: Vec<u8> = (0..1001).flat_map(|n| format!("cmylib\nThing{n}\n0").into_bytes()).collect();
    refuses(&[&many[..], b"}."].concat(), "it names more than 1000 classes");
}

#[test]
fn values_that_are_no_tensors_are_refused_by_name() {
    for (value, kind) in [
        (&b"N"[..], "None"),
        (b"K\x05", "the number 5"),
        (b"G\0\0\0\0\0\0\0\0", "a number"),
        (b"U\x01a", "a text"),
        (b"]", "a list"),
        (b")", "a tuple"),
        (b"\x8f", "a set"),
        (b"}", "a dict"),
        (b"ctorch\nFloatStorage\n", "a function"),
    ] {
        let among = [&b"}(X\x01\0\0\0w"[..], &good(), b"X\x01\0\0\0v", value, b"u."].concat();
        refuses(&among, &format!("`v` is {kind}, no tensor"));
        let root = [value, b"."].concat();
        refuses(&root, if kind == "a dict" { "its keys are" } else { "weights are a dict of tensors" });
    }
    refuses(&[&b"}(K\x07"[..], &good(), b"u."].concat(), "a tensor's name is the number 7");
}

#[test]
fn tensors_that_leave_their_storage_or_are_put_together_wrongly_are_refused() {
    let float = |length| storage("FloatStorage", "0", length);
    let cases: [(Vec<u8>, &str); 12] = [
        (tensor(&float(4), b"K\x01", b"K\x04\x85", b"K\x01\x85"), "leads out of its storage of 4 numbers"),
        (tensor(&float(4), b"K\x00", b"J\xff\xff\xff\x7f\x85", b"K\x00\x85"), "has more numbers than its storage of 4"),
        (tensor(&float(4), b"K\x00", b"J\xff\xff\xff\xff\x85", b"K\x01\x85"), "an impossible size, stride or offset"),
        (tensor(&float(4), b"J\xff\xff\xff\xff", b"K\x01\x85", b"K\x01\x85"), "an impossible size, stride or offset"),
        (tensor(&float(4), b"K\x00", b"K\x04", b"K\x01\x85"), "an impossible size, stride or offset"),
        (tensor(&float(4), b"K\x00", b"K\x02K\x02\x86", b"K\x01\x85"), "2 axes and 1 strides"),
        (tensor(&float(5), b"K\x00", b"K\x04\x85", b"K\x01\x85"), "`data/0` has 16 bytes, 20 were announced"),
        (tensor(&storage("DoubleStorage", "0", 4), b"K\x00", b"K\x04\x85", b"K\x01\x85"), "32 were announced"),
        (tensor(&storage("FloatStorage", "7", 4), b"K\x00", b"K\x04\x85", b"K\x01\x85"), "lacks its part `data/7`"),
        (tensor(&storage("QInt8Storage", "0", 4), b"K\x00", b")", b")"), "class `torch.QInt8Storage`"),
        (tensor(b"K\x01", b"K\x00", b")", b")"), "a tensor without a storage"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R".to_vec(), "a tensor with arguments missing"),
    ];
    for (value, expected) in cases {
        refuses(&dict(&value), expected);
    }
    let key = "9".repeat(41);
    refuses(&dict(&storage("FloatStorage", &key, 4)), "a storage without a key");
    refuses(&dict(b"K\x01Q"), "that is no storage");
    refuses(&dict(b"K\x01)R"), "a call of something that is no function");
    refuses(&dict(b"ctorch\nFloatStorage\n)R"), "a call of something that is no function");
    refuses(&dict(b"ctorch._utils\n_rebuild_parameter\nK\x01\x85R"), "a parameter that is no tensor");
    refuses(&dict(b"K\x01}b"), "a state for what has none");
    refuses(&dict(b"ccollections\nOrderedDict\n]K\x01a\x85R"), "no list of pairs");
    let twice = [&float(4)[..], b"0", &float(5)].concat();
    refuses(&dict(&twice), "announced twice in different ways");
}

#[test]
fn views_that_multiply_what_is_stored_are_refused() {
    let entries: Vec<u8> = (0..5_u8).flat_map(|n| [&[b'U', 1, b'a' + n][..], &good()].concat()).collect();
    refuses(&[&b"}("[..], &entries, b"u."].concat(), "views that hold 80 bytes of numbers, and 16 are stored");
    let few: Vec<u8> = (0..4_u8).flat_map(|n| [&[b'U', 1, b'a' + n][..], &good()].concat()).collect();
    assert_eq!(read(&archive(&[&b"}("[..], &few, b"u."].concat())).unwrap().tensors.len(), 4);
}

#[test]
fn bombs_of_nesting_memory_and_length_are_refused_or_harmless() {
    refuses(&vec![b'('; 2 << 20], "more than 1048576 objects");
    refuses(&[&b"}"[..], &vec![0x94; 2 << 20]].concat(), "more than 1048576 remembered objects");
    refuses(b"X\xff\xff\xff\xff", "4294967295 bytes are needed");
    refuses(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "bytes are needed");
    let nested = [&b"}X\x01\0\0\0w"[..], &vec![b'('; 300_000], &vec![b't'; 300_000], b"s."].concat();
    refuses(&nested, "it holds no dict of tensors");
    let list = [&b"](]K\x01aq\x00"[..], &b"h\x00".repeat(1 << 10), b"eq\x01"].concat();
    let copies = [&list[..], b"ccollections\nOrderedDict\nq\x02", &b"h\x02h\x01\x85R0".repeat(2_000), b"."].concat();
    refuses(&copies, "no list of pairs");
    let pairs = [&b"](]K\x01aK\x01aq\x00"[..], &b"h\x00".repeat(1 << 10), b"eq\x01"].concat();
    let copies = [&pairs[..], b"ccollections\nOrderedDict\nq\x02", &b"h\x02h\x01\x85R0".repeat(2_000), b"."].concat();
    refuses(&copies, "more than 1048576 items");
}

#[test]
fn archives_that_torch_does_not_write_are_refused() {
    let pickle = dict(&good());
    let numbers = [0_u8; 16];
    let of = |parts: &[(&str, &[u8])]| archive_of(parts, CompressionMethod::Stored);
    assert!(read(&of(&[("x/data.pkl", &pickle), ("x/data/0", &numbers)])).is_ok(), "before byteorder was written");
    let cases = [
        (of(&[("x/data.pkl", &pickle), ("x/byteorder", b"big"), ("x/data/0", &numbers)]), "highest byte first"),
        (of(&[("x/readme", b"hello")]), "none that torch.save wrote"),
        (of(&[("x/data.pkl", &pickle), ("y/data.pkl", &pickle)]), "none that torch.save wrote"),
        (of(&[("x/data.pkl", &pickle), ("x/constants.pkl", b".")]), "a TorchScript module"),
        (
            archive_of(&[("x/data.pkl", &[b'N'; 90]), ("x/data/0", &numbers)], CompressionMethod::Deflated),
            "compressed or encrypted",
        ),
    ];
    for (bytes, expected) in cases {
        let reason = reason(&bytes);
        assert!(reason.contains(expected), "{expected}: {reason}");
    }
    let mut damaged = archive(&pickle);
    let place = damaged.windows(8).position(|bytes| bytes == [0, 0, 128, 63, 0, 0, 0, 64]).unwrap();
    damaged[place] ^= 1;
    assert!(reason(&damaged).contains("`x/data/0` is damaged: its checksum"));
    assert!(reason(&archive(&pickle)[..200]).contains("zip archive is damaged"));
    assert!(reason(b"\x89PNG").contains("neither as a zip archive"));
    assert!(reason(b"").contains("neither as a zip archive"));
}

#[test]
fn the_older_form_is_held_to_its_word() {
    let whole = fixture("views-legacy.pt");
    for length in (legacy::MAGIC.len()..whole.len()).step_by(7) {
        let reason = reason(&whole[..length]);
        assert!(reason.contains("are needed") || reason.contains("without an end"), "cut to {length} bytes: {reason}");
    }
    let changed = |from: &[u8], to: &[u8]| {
        let place = whole.windows(from.len()).position(|bytes| bytes == from).unwrap();
        [&whole[..place], to, &whole[place + from.len()..]].concat()
    };
    assert!(reason(&changed(b"\x80\x02M\xe9\x03.", b"\x80\x02M\xea\x03.")).contains("another version"));
    assert!(reason(&changed(b"little_endianq\x02\x88", b"little_endianq\x02\x89")).contains("highest byte first"));
    let form = |object: &[u8], keys: &[u8], rest: &[u8]| {
        let facts = b"\x80\x02}X\x0d\0\0\0little_endian\x88s.";
        [legacy::MAGIC, b"\x80\x02M\xe9\x03.", facts, object, keys, rest].concat()
    };
    let (object, numbers) = (dict(&good()), [&4_u64.to_le_bytes()[..], &[0; 16]].concat());
    assert!(read(&form(&object, b"]U\x010a.", &numbers)).is_ok());
    let cases = [
        (form(&object, b"].", b""), "lacks its storage `0`"),
        (form(&object, b"}.", b""), "no list of its storages"),
        (form(&object, b"]U\x019a.", &numbers), "`9` belongs to nothing"),
        (form(&object, b"](U\x010U\x010e.", &numbers.repeat(2)), "`0` is there twice"),
        (
            form(&object, b"]U\x010a.", &[&u64::MAX.to_le_bytes()[..], &[0; 16]].concat()),
            "18446744073709551615 numbers",
        ),
        (form(&object, b"]U\x010a.", &numbers[..20]), "16 bytes are needed and 12 are left"),
    ];
    for (bytes, expected) in cases {
        let reason = reason(&bytes);
        assert!(reason.contains(expected), "{expected}: {reason}");
    }
}

mod damaged {
    use empssl_golden::damage::Parser;

    use super::*;

    /// Reads a file and gathers every tensor of it.
    fn file(bytes: &[u8]) -> bool {
        let Ok(file) = read(bytes) else { return false };
        let gathered = |tensor: &Tensor<'_>| {
            assert_eq!(tensor.bytes().len(), tensor.shape.iter().product::<usize>() * tensor.element.size());
        };
        file.tensors.iter().for_each(gathered);
        true
    }

    /// A parser of which a byte may stand for a tensor, whose view has eight axes, with a reference on the stack and a
    /// memo.
    fn parser(name: &'static str, parse: fn(&[u8]) -> bool, good: Vec<Vec<u8>>) -> Parser {
        Parser { memory: [1 << 20, 512], ..Parser::new(name, parse, good) }
    }

    /// Pickles are put into an archive, so that no checksum keeps the damage away from the reader.
    #[test]
    fn pickles_neither_panic_nor_take_memory() {
        let settings = b"}(X\x0a\0\0\0state_dict}X\x01\0\0\0w";
        let odd = b"sX\x01\0\0\0ccargparse\nNamespace\n)\x81}U\x04seedK\x01sbX\x01\0\0\0dcmylib\nD\n)R(U\x01aK\x01uu.";
        let pickles = vec![dict(&good()), [&settings[..], &good(), odd].concat()];
        parser("torch pickle", |bytes| file(&archive(bytes)), pickles).hold();
    }

    #[test]
    fn archives_neither_panic_nor_take_memory() {
        parser("torch zip", file, vec![fixture("views.pt"), archive(&dict(&good()))]).hold();
    }

    #[test]
    fn files_of_the_older_form_neither_panic_nor_take_memory() {
        parser("torch legacy", file, vec![fixture("views-legacy.pt")]).hold();
    }
}
