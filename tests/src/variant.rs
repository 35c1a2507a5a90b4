//! The same component with another digest: a new revision that behaves like
//! the one before.

use std::fs;
use std::path::{Path, PathBuf};

/// The id of a custom section, in modules and in components alike.
const CUSTOM: u8 = 0;

const NAME: &[u8] = b"variant";

/// Writes the component with a custom section appended that holds `n`, which
/// whatever runs it must ignore. The same `n` gives the same bytes.
///
/// # Panics
///
/// If the component cannot be read, or the directory not written.
#[must_use]
pub fn variant(component: &Path, n: u64, dir: &Path) -> PathBuf {
    let mut bytes = fs::read(component).expect("components can be read");
    bytes.extend(section(n));
    let stem = component.file_stem().expect("a component is a file");
    let path = dir.join(format!("{}-{n}.wasm", stem.to_string_lossy()));
    fs::write(&path, bytes).expect("the directory can be written");
    path
}

/// `id size name-length name payload`. Both numbers are LEB128, and so small
/// that they are one byte each.
fn section(n: u64) -> Vec<u8> {
    let payload = n.to_string();
    let byte = |length: usize| {
        u8::try_from(length)
            .ok()
            .filter(|byte| *byte < 0x80)
            .expect("a name and 20 digits are short")
    };
    let mut section = vec![CUSTOM, byte(1 + NAME.len() + payload.len())];
    section.push(byte(NAME.len()));
    section.extend(NAME);
    section.extend(payload.as_bytes());
    section
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_is_the_component_and_a_section_more() {
        assert_eq!(section(12), b"\0\x0a\x07variant12");
        let dir = tempfile::tempdir().unwrap();
        let original = dir.path().join("x.wasm");
        fs::write(&original, b"\0asm").unwrap();
        let variant = variant(&original, u64::MAX, dir.path());
        let name = "x-18446744073709551615.wasm";
        assert_eq!(variant, dir.path().join(name));
        let bytes = fs::read(variant).unwrap();
        assert_eq!(bytes[..4], *b"\0asm");
        assert_eq!(usize::from(bytes[5]), bytes.len() - 6);
    }
}
