//! Encodings of files, decoded to UTF-8.
//!
//! A byte order mark says the encoding, and so do the NUL bytes of UTF-16 without one. Every other file is
//! taken as UTF-8, unless the caller names its encoding: which 8-bit encoding a file has can not be known
//! from its bytes.

use std::io::{self, BufRead, Read};

use encoding_rs::{CoderResult, Decoder, Encoding, UTF_8, UTF_16BE, UTF_16LE};

use super::input::Source;

/// Number of bytes that tell UTF-16 without a byte order mark.
const PROBE_BYTES: usize = 64;
/// Maximum number of bytes that are decoded at a time.
const DECODED_BYTES_MAX: usize = 64 * 1024;

/// Parses the name of an encoding, as web pages name it, for `--encoding`.
pub(in crate::cli) fn parse(label: &str) -> Result<&'static Encoding, String> {
    Encoding::for_label(label.as_bytes()).ok_or_else(|| {
        format!("`{label}` is not an encoding such as utf-8, windows-1252 or utf-16le")
    })
}

/// The encoding of a file that begins with these bytes.
pub(super) fn detect(start: &[u8]) -> &'static Encoding {
    if let Some((encoding, _)) = Encoding::for_bom(start) {
        return encoding;
    }
    let pairs = start.get(..start.len().min(PROBE_BYTES)).unwrap_or_default().chunks_exact(2);
    let count = pairs.len();
    let (mut little, mut big) = (0, 0);
    for pair in pairs {
        little += usize::from(matches!(pair, [1..=u8::MAX, 0]));
        big += usize::from(matches!(pair, [0, 1..=u8::MAX]));
    }
    // Most characters of a heading are of ASCII or Latin-1, and no text of 8 bits has so many NUL.
    // A character outside of the first plane may have a half that looks like the other order.
    let is_most = |found: usize, other: usize| count > 1 && found > 8 * other && 2 * found > count;
    match (is_most(little, big), is_most(big, little)) {
        (true, _) => UTF_16LE,
        (_, true) => UTF_16BE,
        _ => UTF_8,
    }
}

/// A source in UTF-8. Bytes in UTF-8 are left as they are, so that a place in them is one in the file.
pub(super) fn decoded(source: Source, encoding: &'static Encoding) -> Source {
    if encoding == UTF_8 {
        return source;
    }
    let decoder = encoding.new_decoder();
    Box::new(Decoded { source, decoder, text: String::new(), taken: 0, is_end: false })
}

struct Decoded {
    source: Source,
    decoder: Decoder,
    /// Decoded text, of which the first bytes are taken.
    text: String,
    taken: usize,
    is_end: bool,
}

impl Decoded {
    fn decode(&mut self) -> io::Result<()> {
        self.text.clear();
        self.taken = 0;
        self.text.reserve(DECODED_BYTES_MAX);
        let bytes = self.source.fill_buf()?;
        let is_last = bytes.is_empty();
        let (result, read, _) = self.decoder.decode_to_string(bytes, &mut self.text, is_last);
        self.source.consume(read);
        self.is_end = is_last && result == CoderResult::InputEmpty;
        Ok(())
    }
}

impl Read for Decoded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Decoded {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.taken == self.text.len() && !self.is_end {
            self.decode()?;
        }
        Ok(self.text.as_bytes().get(self.taken..).unwrap_or_default())
    }

    fn consume(&mut self, length: usize) {
        self.taken += length;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor};

    use super::*;

    fn utf_16(text: &str, mark: &str, bytes_of: fn(u16) -> [u8; 2]) -> Vec<u8> {
        mark.encode_utf16().chain(text.encode_utf16()).flat_map(bytes_of).collect()
    }

    #[test]
    fn every_encoding_that_says_itself_is_read() {
        let text = "id,näws\r\n1,yes €\u{1f600}\r\n";
        let ascii = "id,news\n1,yes\n";
        for (bytes, text) in [
            (text.as_bytes().to_vec(), text),
            (utf_16(text, "\u{feff}", u16::to_le_bytes), text),
            (utf_16(text, "\u{feff}", u16::to_be_bytes), text),
            (utf_16(ascii, "", u16::to_le_bytes), ascii),
            (utf_16(text, "", u16::to_le_bytes), text),
            (utf_16(text, "", u16::to_be_bytes), text),
            (utf_16(ascii, "", u16::to_be_bytes), ascii),
        ] {
            // A buffer that ends within characters.
            let encoding = detect(&bytes);
            let source: Source = Box::new(BufReader::with_capacity(7, Cursor::new(bytes)));
            let mut read = String::new();
            decoded(source, encoding).read_to_string(&mut read).unwrap();
            assert_eq!(read, text, "{encoding:?}");
        }
    }

    #[test]
    fn nothing_else_is_taken_for_utf_16() {
        for bytes in [&b""[..], b"a", b"id", b"a\0", b"a\0b", b"id,news\0\0", b"\0\0\0\0"] {
            assert_eq!(detect(bytes), UTF_8, "{bytes:?}");
        }
    }

    #[test]
    fn an_encoding_is_named_as_on_the_web() {
        assert_eq!(parse("windows-1252").unwrap().name(), "windows-1252");
        assert_eq!(parse("Latin1").unwrap().name(), "windows-1252");
        assert!(parse("klingon").unwrap_err().contains("`klingon` is not an encoding"));
        let source: Source = Box::new(Cursor::new(b"caf\xe9 \x80".to_vec()));
        let mut read = String::new();
        decoded(source, parse("cp1252").unwrap()).read_to_string(&mut read).unwrap();
        assert_eq!(read, "café €");
    }
}
