//! The table of mounts that the kernel shows for a process, `proc_pid_mountinfo(5)`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    pub id: u64,
    /// The file system's device numbers, such as `0:40`.
    pub device: &'a [u8],
    /// What of the file system is mounted.
    pub root: PathBuf,
    /// As the process sees it.
    pub mount_point: PathBuf,
    pub file_system: &'a [u8],
    /// Of the superblock, by comma.
    pub options: &'a [u8],
}

/// The mounts of a table, in its order: of several on one mount point the last is on top.
pub fn entries(table: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let device = fields.nth(1)?;
        let (root, mount_point) = (path(fields.next()?), path(fields.next()?));
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let (file_system, options) = (fields.next()?, fields.nth(1)?);
        Some(Entry { id, device, root, mount_point, file_system, options })
    })
}

/// Undoes the octal escapes, such as `\040` for a space.
fn path(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = escaped.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_table_is_read() {
        let table = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
            nonsense\n\
            37 36 0:40 / /a\\040b\\134 rw - tmpfs tmpfs rw\n";
        let entry = |id, device, root: &str, mount_point: &str, file_system, options| Entry {
            id,
            device,
            root: root.into(),
            mount_point: mount_point.into(),
            file_system,
            options,
        };
        let read: Vec<_> = entries(table).collect();
        assert_eq!(
            read,
            [
                entry(36, b"98:0", "/mnt1", "/mnt2", b"ext3", b"rw,errors=continue"),
                entry(37, b"0:40", "/", "/a b\\", b"tmpfs", b"rw")
            ]
        );
        assert_eq!(path(b"a\\04\\999\\777\\"), Path::new("a\\04\\999\\777\\"));
    }
}
