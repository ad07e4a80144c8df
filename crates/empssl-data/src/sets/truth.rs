//! The text files that say which image is of which class: each a function of its bytes alone.
//!
//! Every refusal names the line. Nothing is allocated that is not in the text.

use std::collections::HashMap;

/// The wnids of Tiny ImageNet's `wnids.txt`, sorted; one a line.
pub(crate) fn wnids(bytes: &[u8]) -> Result<Vec<String>, String> {
    let mut wnids = Vec::new();
    for (number, line) in lines(bytes)? {
        wnids.push(wnid(number, line)?.to_owned());
    }
    wnids.sort();
    match wnids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("{} is there twice", pair[0])),
        None => Ok(wnids),
    }
}

/// The first name of every wnid in Tiny ImageNet's `words.txt`: `n01443537 TAB goldfish, Carassius auratus`.
pub(crate) fn words(bytes: &[u8]) -> Result<HashMap<String, String>, String> {
    map_of_lines(bytes, |number, line| {
        let (key, names) = line.split_once('\t').ok_or_else(|| format!("line {number} has no tab"))?;
        Ok(Some((wnid(number, key)?, names.split(',').next().unwrap_or(names).trim())))
    })
}

/// The wnid of every file in Tiny ImageNet's `val_annotations.txt`: the file, the wnid and a box, between tabs.
pub(crate) fn annotations(bytes: &[u8]) -> Result<HashMap<String, String>, String> {
    map_of_lines(bytes, |number, line| {
        let (file, rest) = line.split_once('\t').ok_or_else(|| format!("line {number} has no tab"))?;
        Ok(Some((file, wnid(number, rest.split('\t').next().unwrap_or(rest))?)))
    })
}

/// The wnid of every image in `LOC_val_solution.csv`: the image, a comma, then a wnid and a box of every object. The
/// objects of one image are all of its class.
pub(crate) fn solution(bytes: &[u8]) -> Result<HashMap<String, String>, String> {
    map_of_lines(bytes, |number, line| {
        let (image, prediction) = line.split_once(',').ok_or_else(|| format!("line {number} has no comma"))?;
        if (number, image) == (1, "ImageId") {
            return Ok(None);
        }
        Ok(Some((image, wnid(number, prediction.split_ascii_whitespace().next().unwrap_or_default())?)))
    })
}

/// The ILSVRC2012 ids of the development kit's `ILSVRC2012_validation_ground_truth.txt`: line i is that of image i.
pub(crate) fn ground_truth(bytes: &[u8]) -> Result<Vec<u16>, String> {
    let id = |(number, line): (usize, &str)| match line.trim().parse() {
        Ok(id @ 1..=1000) => Ok(id),
        _ => Err(format!("line {number} is `{}`, expected an id from 1 to 1000", shortened(line))),
    };
    lines(bytes)?.map(id).collect()
}

/// The lines of a text, counted from 1, without those that are empty at its end.
fn lines(bytes: &[u8]) -> Result<impl Iterator<Item = (usize, &str)>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("byte {} is no text", error.valid_up_to()))?;
    Ok((1..).zip(text.trim_end().lines()))
}

fn wnid(number: usize, text: &str) -> Result<&str, String> {
    let text = text.trim();
    let digits = text.strip_prefix('n').unwrap_or_default();
    if digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(text);
    }
    Err(format!("line {number} has `{}` for a class, expected n and eight digits", shortened(text)))
}

/// The key and the value in a line; `None` in a line without.
type Entry<'a> = Result<Option<(&'a str, &'a str)>, String>;

/// The keys and values of a text's lines, which `entry` finds in the line of a number.
fn map_of_lines(bytes: &[u8], entry: fn(usize, &str) -> Entry<'_>) -> Result<HashMap<String, String>, String> {
    let mut map = HashMap::new();
    for (number, line) in lines(bytes)? {
        let Some((key, value)) = entry(number, line)? else { continue };
        if map.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(format!("line {number} names {} again", shortened(key)));
        }
    }
    Ok(map)
}

/// Foreign text for a message, not longer than a line.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use empssl_golden::damage::Parser;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wnids_are_sorted_and_each_is_there_once() {
        assert_eq!(wnids(b"n00000002\r\nn00000001\n\n").unwrap(), ["n00000001", "n00000002"]);
        assert_eq!(wnids(b"n00000002\nn00000002").unwrap_err(), "n00000002 is there twice");
        let expected = "line 2 has `cat` for a class, expected n and eight digits";
        assert_eq!(wnids(b"n00000002\ncat\n").unwrap_err(), expected);
    }

    #[test]
    fn the_first_of_several_names_counts() {
        let found = words(b"n01443537\tgoldfish, Carassius auratus\nn00000001\tentity\n").unwrap();
        assert_eq!((&*found["n01443537"], &*found["n00000001"], found.len()), ("goldfish", "entity", 2));
        assert_eq!(words(b"n01443537 goldfish").unwrap_err(), "line 1 has no tab");
        assert_eq!(words(b"n00000001\ta\nn00000001\tb").unwrap_err(), "line 2 names n00000001 again");
    }

    #[test]
    fn annotations_name_the_class_of_every_file() {
        let found = annotations(b"val_0.JPEG\tn03444034\t0\t32\t44\t62\nval_1.JPEG\tn04067472\n").unwrap();
        assert_eq!((&*found["val_0.JPEG"], &*found["val_1.JPEG"]), ("n03444034", "n04067472"));
        assert_eq!(annotations(b"val_0.JPEG\n").unwrap_err(), "line 1 has no tab");
        let twice = annotations(b"a\tn03444034\na\tn03444034").unwrap_err();
        assert_eq!(twice, "line 2 names a again");
    }

    #[test]
    fn a_solution_has_a_header_and_a_class_of_every_image() {
        let text =
            "ImageId,PredictionString\nILSVRC2012_val_1,n03995372 85 1 499 272 n03995372 0 0 1 1 \nb,n00000001\n";
        let found = solution(text.as_bytes()).unwrap();
        assert_eq!((&*found["ILSVRC2012_val_1"], &*found["b"], found.len()), ("n03995372", "n00000001", 2));
        assert!(solution(b"a,\n").unwrap_err().starts_with("line 1 has `` for a class"));
        assert_eq!(solution(b"a,n00000001\nb").unwrap_err(), "line 2 has no comma");
    }

    #[test]
    fn a_ground_truth_is_one_id_a_line() {
        assert_eq!(ground_truth(b"490\r\n1\n1000\n").unwrap(), [490, 1, 1000]);
        for (text, line) in [("1\n0\n", 2), ("1001\n", 1), ("1\n\n2", 2), ("-3", 1), ("n01558993", 1)] {
            let message = ground_truth(text.as_bytes()).unwrap_err();
            assert!(message.starts_with(&format!("line {line} is `")), "{message}");
        }
        assert_eq!(ground_truth(b"1\n\xff").unwrap_err(), "byte 2 is no text");
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (wnids(&bytes), words(&bytes), annotations(&bytes), solution(&bytes), ground_truth(&bytes));
        }
    }

    #[test]
    fn damaged_lists_neither_panic_nor_take_memory() {
        let annotations = b"val_0.JPEG\tn01443537\t0\t32\t44\t62\nval_1.JPEG\tn01440764\t52\t55\t57\t59\n".to_vec();
        let solution =
            b"ImageId,PredictionString\nILSVRC2012_val_00000001,n01443537 85 1 499 272 n01443537 1 2 3 4\n".to_vec();
        let synsets = b"n01443537\tgoldfish, Carassius auratus\nn01440764\ttench\n".to_vec();
        let parsers = [
            Parser::new("words", |bytes| words(bytes).is_ok(), vec![synsets]),
            Parser::new("annotations", |bytes| super::annotations(bytes).is_ok(), vec![annotations]),
            Parser::new("solution", |bytes| super::solution(bytes).is_ok(), vec![solution]),
        ];
        for parser in parsers {
            // A map's entry for a line of a dozen bytes: two texts of their own and its slot, twice as the map grows.
            Parser { memory: [64 << 10, 64], ..parser }.hold();
        }
        Parser::new("wnids", |bytes| wnids(bytes).is_ok(), vec![b"n01443537\nn01440764\n".to_vec()]).hold();
        Parser::new("ground truth", |bytes| ground_truth(bytes).is_ok(), vec![b"490\n1\n1000\n".to_vec()]).hold();
    }
}
