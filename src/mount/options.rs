//! Mount options as config.md lists them: one table, read once, that says what each means to the kernel.

use crate::sys::mount::attr;

/// Attributes to set and to clear on a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub set: u64,
    pub clear: u64,
}

impl Attributes {
    /// Adds what a later option says; the later one wins.
    fn add(&mut self, later: Attributes) {
        self.set = self.set & !later.clear | later.set;
        self.clear |= later.clear;
    }

    /// These, and then `later` ones.
    pub fn with(mut self, later: Attributes) -> Self {
        self.add(later);
        self
    }

    /// Takes `bits` out of what is set; whether all were.
    pub fn take(&mut self, bits: u64) -> bool {
        let had = self.set & bits == bits;
        self.set &= !bits;
        had
    }

    /// Whether there is nothing to change.
    pub fn is_empty(self) -> bool {
        self == Attributes::default()
    }
}

/// How mounts and unmounts travel to and from a mount, `mount_namespaces(7)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Propagation {
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` or `MS_UNBINDABLE`.
    pub flag: u64,
    pub recursive: bool,
}

/// What one option does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Nothing,
    Attribute(Attributes),
    /// The same for the whole tree of mounts.
    Recursive(Attributes),
    /// A flag of the superblock, by the name that `fsconfig(2)` knows, or the name that undoes it.
    Superblock(&'static str),
    Propagate(Propagation),
    Bind {
        recursive: bool,
    },
    IdMap {
        recursive: bool,
    },
    CopyUp,
    CopyLink,
    Remount,
}

const fn set(bits: u64) -> Effect {
    Effect::Attribute(Attributes { set: bits, clear: 0 })
}

const fn clear(bits: u64) -> Effect {
    Effect::Attribute(Attributes { set: 0, clear: bits })
}

/// The access time attributes are one field, which has to be cleared as a whole; 0 in it is `relatime`.
const fn access_time(bits: u64) -> Effect {
    Effect::Attribute(Attributes { set: bits, clear: attr::ATIME })
}

const fn propagate(flag: libc::c_ulong, recursive: bool) -> Effect {
    Effect::Propagate(Propagation { flag, recursive })
}

/// The options without the recursive forms of attributes, which [`effect`] derives from the leading `r`.
const OPTIONS: &[(&str, Effect)] = &[
    ("async", Effect::Superblock("async")),
    ("atime", access_time(0)),
    ("bind", Effect::Bind { recursive: false }),
    // podman's, of what it does with a volume itself.
    ("copy", Effect::Nothing),
    // crun's, which podman uses.
    ("copy-symlink", Effect::CopyLink),
    ("defaults", Effect::Nothing),
    ("dev", clear(attr::NODEV)),
    ("diratime", clear(attr::NODIRATIME)),
    ("dirsync", Effect::Superblock("dirsync")),
    ("exec", clear(attr::NOEXEC)),
    ("idmap", Effect::IdMap { recursive: false }),
    ("iversion", Effect::Superblock("iversion")),
    ("lazytime", Effect::Superblock("lazytime")),
    ("loud", Effect::Nothing),
    ("mand", Effect::Superblock("mand")),
    ("noatime", access_time(attr::NOATIME)),
    ("nocopy", Effect::Nothing),
    ("nodev", set(attr::NODEV)),
    ("nodiratime", set(attr::NODIRATIME)),
    ("noexec", set(attr::NOEXEC)),
    ("noiversion", Effect::Nothing),
    ("nolazytime", Effect::Superblock("nolazytime")),
    ("nomand", Effect::Superblock("nomand")),
    ("norelatime", access_time(0)),
    ("nostrictatime", access_time(0)),
    ("nosuid", set(attr::NOSUID)),
    ("nosymfollow", set(attr::NOSYMFOLLOW)),
    ("private", propagate(libc::MS_PRIVATE, false)),
    ("rbind", Effect::Bind { recursive: true }),
    ("relatime", access_time(0)),
    ("remount", Effect::Remount),
    ("ridmap", Effect::IdMap { recursive: true }),
    ("ro", set(attr::RDONLY)),
    ("rprivate", propagate(libc::MS_PRIVATE, true)),
    ("rshared", propagate(libc::MS_SHARED, true)),
    ("rslave", propagate(libc::MS_SLAVE, true)),
    ("runbindable", propagate(libc::MS_UNBINDABLE, true)),
    ("rw", clear(attr::RDONLY)),
    ("shared", propagate(libc::MS_SHARED, false)),
    ("silent", Effect::Nothing),
    ("slave", propagate(libc::MS_SLAVE, false)),
    ("strictatime", access_time(attr::STRICTATIME)),
    ("suid", clear(attr::NOSUID)),
    ("symfollow", clear(attr::NOSYMFOLLOW)),
    ("sync", Effect::Superblock("sync")),
    ("tmpcopyup", Effect::CopyUp),
    ("unbindable", propagate(libc::MS_UNBINDABLE, false)),
];

fn lookup(name: &str) -> Option<Effect> {
    OPTIONS.binary_search_by_key(&name, |(known, _)| known).ok().map(|place| OPTIONS[place].1)
}

fn effect(name: &str) -> Option<Effect> {
    lookup(name).or_else(|| match lookup(name.strip_prefix('r')?)? {
        Effect::Attribute(attributes) => Some(Effect::Recursive(attributes)),
        _ => None,
    })
}

/// Every option by name, sorted, as `features` lists them.
pub fn names() -> Vec<String> {
    let plain = OPTIONS.iter().map(|(name, _)| (*name).to_owned());
    let attributes = OPTIONS.iter().filter(|(_, effect)| matches!(effect, Effect::Attribute(_)));
    let recursive = attributes.map(|(name, _)| format!("r{name}"));
    let mut names: Vec<_> = plain.chain(recursive).collect();
    names.sort();
    names
}

/// What a mount's options say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub attributes: Attributes,
    pub recursive_attributes: Attributes,
    /// In the order given; the kernel applies each.
    pub propagation: Vec<Propagation>,
    /// Whether it is a bind mount, and then whether a recursive one.
    pub bind: Option<bool>,
    /// Whether the mount is idmapped, and then whether recursively.
    pub id_map: Option<bool>,
    /// The text after `idmap=`, in crun's syntax.
    pub id_map_text: String,
    pub copy_up: bool,
    /// Whether a source that is a symbolic link is copied, and not what it leads to mounted.
    pub copy_link: bool,
    pub remount: bool,
    /// Names of superblock flags.
    pub superblock: Vec<&'static str>,
    /// What no table knows is for the file system.
    pub data: Vec<String>,
}

/// Reads the options of one mount.
pub fn parse(options: &[String]) -> Options {
    let mut result = Options::default();
    for option in options {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        if matches!(name, "idmap" | "ridmap") {
            value.clone_into(&mut result.id_map_text);
        } else if option.contains('=') {
            result.data.push(option.clone());
            continue;
        }
        match effect(name) {
            None if option.is_empty() => {}
            None => result.data.push(option.clone()),
            Some(effect) => result.apply(effect),
        }
    }
    result
}

/// The file system's own options that one of config.json's holds, as mount(2) would find them: apart by commas, but for
/// those in quotes and after a backslash (security labels, overlay's paths). Quotes around a value are not part of it.
pub fn split(data: &str) -> Vec<String> {
    let (mut parts, mut quoted, mut escaped) = (vec![String::new()], false, false);
    for letter in data.chars() {
        match letter {
            '"' if !escaped => quoted = !quoted,
            ',' if !(quoted || escaped) => parts.push(String::new()),
            _ => parts.iter_mut().last().into_iter().for_each(|part| part.push(letter)),
        }
        escaped = letter == '\\' && !escaped;
    }
    parts.retain(|part| !part.is_empty());
    parts
}

impl Options {
    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Nothing => {}
            Effect::Attribute(attributes) => self.attributes.add(attributes),
            Effect::Recursive(attributes) => self.recursive_attributes.add(attributes),
            Effect::Superblock(name) => self.superblock.push(name),
            Effect::Propagate(propagation) => self.propagation.push(propagation),
            // `rbind` stays recursive beside a `bind`.
            Effect::Bind { recursive } => self.bind = Some(recursive || self.bind == Some(true)),
            Effect::IdMap { recursive } => self.id_map = Some(recursive),
            Effect::CopyUp => self.copy_up = true,
            Effect::CopyLink => self.copy_link = true,
            Effect::Remount => self.remount = true,
        }
    }
}

/// The attribute bits of `mount_setattr(2)` beside the flags of mount(2), for kernels without the former.
const CLASSIC: &[(u64, libc::c_ulong)] = &[
    (attr::RDONLY, libc::MS_RDONLY),
    (attr::NOSUID, libc::MS_NOSUID),
    (attr::NODEV, libc::MS_NODEV),
    (attr::NOEXEC, libc::MS_NOEXEC),
    (attr::NOATIME, libc::MS_NOATIME),
    (attr::STRICTATIME, libc::MS_STRICTATIME),
    (attr::NODIRATIME, libc::MS_NODIRATIME),
    (attr::NOSYMFOLLOW, 256),
];

/// The flags of mount(2) that mean the same as `attributes`.
pub fn classic_flags(attributes: u64) -> libc::c_ulong {
    CLASSIC.iter().filter(|(bit, _)| attributes & bit != 0).fold(0, |flags, (_, flag)| flags | flag)
}

/// The flag of mount(2) for a superblock flag's name.
pub fn classic_superblock_flag(name: &str) -> libc::c_ulong {
    match name {
        "sync" => libc::MS_SYNCHRONOUS,
        "dirsync" => libc::MS_DIRSYNC,
        "mand" => libc::MS_MANDLOCK,
        "iversion" => libc::MS_I_VERSION,
        "lazytime" => 1 << 25,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Options {
        parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_table_is_sorted_for_its_search() {
        assert!(OPTIONS.is_sorted_by_key(|(name, _)| *name));
    }

    #[test]
    fn every_option_of_the_spec_is_known() {
        let spec = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev \
            nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime \
            rbind rdev rdiratime relatime remount rexec rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime \
            rnosuid rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow \
            runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup unbindable idmap ridmap";
        let names = names();
        for option in spec.split_whitespace() {
            assert!(effect(option).is_some(), "{option}");
            assert!(names.iter().any(|name| name == option), "{option}");
        }
        assert_eq!(effect("rsync"), None);
        assert_eq!(effect("rbogus"), None);
    }

    #[test]
    fn the_later_option_wins() {
        let result = options("ro,nosuid,rw,noatime,strictatime");
        assert_eq!(result.attributes.set, attr::NOSUID | attr::STRICTATIME);
        assert_eq!(result.attributes.clear, attr::RDONLY | attr::ATIME);
        assert_eq!(options("noatime,relatime").attributes, Attributes { set: 0, clear: attr::ATIME });
    }

    #[test]
    fn recursive_forms_apply_to_the_tree() {
        let result = options("rbind,rro,rnosuid,nodev");
        assert_eq!(result.bind, Some(true));
        assert_eq!(result.recursive_attributes.set, attr::RDONLY | attr::NOSUID);
        assert_eq!(result.attributes.set, attr::NODEV);
    }

    #[test]
    fn what_is_unknown_is_data() {
        let result = options("mode=755,size=64k,newinstance,,ro");
        assert_eq!(result.data, ["mode=755", "size=64k", "newinstance"]);
        assert_eq!(split("size=64k,mode=700,,nr_inodes=9"), ["size=64k", "mode=700", "nr_inodes=9"]);
        assert_eq!(split(r#"context="u:r:t:s0:c1,c2",mode=1"#), ["context=u:r:t:s0:c1,c2", "mode=1"]);
        assert_eq!(split(r"lowerdir=/a\,b,xino=off"), [r"lowerdir=/a\,b", "xino=off"]);
        assert_eq!(options("idmap=uids=0-1-2;gids=0-1-2").id_map_text, "uids=0-1-2;gids=0-1-2");
    }
}
