//! Network devices: moves those of `linux.netDevices` into the container's network namespace, and brings `lo` up.
//!
//! The kernel moves a device with all its attributes but its addresses and its state: it closes the device and
//! drops the addresses. Those that the specification wants kept (config-linux.md, "Network Devices") are read
//! before and added again after. All devices are checked before the first is moved.

mod netlink;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;
use oci_spec::runtime::LinuxNetDevice;

use crate::error::{Context, Error, Result};
use crate::safepath::identity;
use netlink::{Message, Request, Socket, attributes, malformed, u32_at};

/// Size of a device's name with its NUL, bytes (netdevice(7)).
const IFNAMSIZ: usize = 16;
/// Of `<linux/if_link.h>`, since Linux 6.15: a byte, 1 if the device stays in its namespace.
const IFLA_NETNS_IMMUTABLE: u16 = 67;
/// Size of `struct ifinfomsg`, bytes.
const LINK_BODY: usize = 16;
/// Size of `struct ifaddrmsg`, bytes.
const ADDRESS_BODY: usize = 8;
/// `lo` is the first device of every network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// A device to move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetDevice {
    /// Its name in the runtime's network namespace.
    pub host_name: String,
    /// Its name in the container; one `%d` in it stands for the first number that is free there.
    pub container_name: String,
}

impl NetDevice {
    fn is_template(&self) -> bool {
        self.container_name.contains('%')
    }

    fn pointer(&self) -> String {
        pointer(&self.host_name)
    }

    fn name_pointer(&self) -> String {
        let member = if self.host_name == self.container_name { "" } else { "/name" };
        self.pointer() + member
    }
}

/// The place of the device in config.json, escaped by RFC 6901, section 3.
fn pointer(host_name: &str) -> String {
    format!("/linux/netDevices/{}", host_name.replace('~', "~0").replace('/', "~1"))
}

/// Checks `linux.netDevices` and sorts it by host name.
///
/// Errors, each with its pointer: no network namespace of the container's own, a name that no device can have,
/// two devices of one name in the container.
#[allow(clippy::implicit_hasher)] // the map is oci-spec's
pub fn plan(devices: Option<&HashMap<String, LinuxNetDevice>>, has_network_namespace: bool) -> Result<Vec<NetDevice>> {
    let mut devices: Vec<_> = devices.into_iter().flatten().map(|(name, device)| planned(name, device)).collect();
    devices.sort_by(|a, b| a.host_name.cmp(&b.host_name));
    if !devices.is_empty() && !has_network_namespace {
        return Err(Error::new("network devices can be moved only into a network namespace of the container's own")
            .pointer("/linux/netDevices")
            .hint("add {\"type\": \"network\"} to linux.namespaces"));
    }
    let mut taken = BTreeSet::new();
    for device in &devices {
        check_name(&device.host_name, false).map_err(|error| error.pointer(device.pointer()))?;
        check_name(&device.container_name, true).map_err(|error| error.pointer(device.name_pointer()))?;
        if !device.is_template() && !taken.insert(device.container_name.as_str()) {
            let message = format!("two network devices get the name {:?} in the container", device.container_name);
            return Err(Error::new(message).pointer(device.name_pointer()));
        }
    }
    Ok(devices)
}

fn planned(host_name: &str, device: &LinuxNetDevice) -> NetDevice {
    let container_name = device.name().as_deref().unwrap_or(host_name).to_owned();
    NetDevice { host_name: host_name.to_owned(), container_name }
}

/// The kernel's rules (`dev_valid_name` and, for templates, `dev_alloc_name`), and no control characters.
fn check_name(name: &str, may_be_template: bool) -> Result<()> {
    // The kernel takes the byte a0 for a space, even within a UTF-8 character.
    let forbidden = |byte: u8| byte.is_ascii_control() || b" /:\xa0".contains(&byte);
    let stem = if may_be_template { name.replacen("%d", "", 1) } else { name.to_owned() };
    let problem = match name {
        "" => "is empty",
        "." | ".." => "is that of a directory",
        _ if name.len() >= IFNAMSIZ => "is longer than 15 bytes",
        _ if name.bytes().any(forbidden) => "has a slash, colon, space or control character in it",
        _ if stem.contains('%') => "has a '%' in it that is not the one \"%d\" of a new name",
        _ => return Ok(()),
    };
    Err(Error::new(format!("the network device name {name:?} {problem}")))
}

/// Moves `devices` from the caller's network namespace into `namespace`, with their addresses, and sets them up.
///
/// The caller must have `CAP_NET_ADMIN` in both namespaces and `CAP_SYS_ADMIN` in both's user namespaces, and
/// /proc mounted. Nothing is changed if a device is missing, cannot be moved, or finds its name taken. A failure
/// after that leaves the devices so far in `namespace`; its end returns physical devices to the host and destroys
/// virtual ones (`network_namespaces(7)`).
pub fn move_devices(devices: &[NetDevice], namespace: BorrowedFd<'_>) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let mut host = Socket::open()?.with_texts();
    let mut container = open_socket_in(namespace)?.with_texts();
    let addresses = kept_addresses(&mut host)?;
    let links = check_all(&mut host, &mut container, devices)?;
    for (device, link) in devices.iter().zip(&links) {
        move_device(&mut host, &mut container, device, link, namespace)
            .and_then(|moved| {
                set_up(&mut container, device, moved.index, addresses.iter().filter(|a| a.link == link.index))
            })
            .map_err(|error| error.pointer(device.pointer()))?;
    }
    Ok(())
}

/// Brings `lo` up in the caller's network namespace.
pub fn loopback_up() -> Result<()> {
    Socket::open()?.talk(up(LOOPBACK_INDEX), "cannot bring the loopback device up").map(drop)
}

/// A socket in `namespace`: the calling thread goes there and back.
fn open_socket_in(namespace: BorrowedFd<'_>) -> Result<Socket> {
    let path = "/proc/thread-self/ns/net";
    let own = File::open(path).on_path("cannot open the runtime's network namespace", path)?;
    if same_file(own.as_fd(), namespace)? {
        return Err(Error::new(
            "the container's network namespace is the runtime's own: no device can be moved into it",
        )
        .pointer("/linux/netDevices"));
    }
    setns(namespace, CloneFlags::CLONE_NEWNET).context(|| "cannot enter the container's network namespace")?;
    let socket = Socket::open();
    setns(own, CloneFlags::CLONE_NEWNET).context(|| "cannot return to the runtime's network namespace")?;
    socket
}

fn same_file(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Result<bool> {
    Ok(fstat(one).map(identity).context(|| "cannot stat the runtime's network namespace")?
        == fstat(other).map(identity).context(|| "cannot stat the container's network namespace")?)
}

/// A device in the namespace where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    index: u32,
    movable: bool,
    /// Names that it has beside its first one, each with its NUL.
    alternative_names: Vec<Vec<u8>>,
}

impl Link {
    fn parse(payload: &[u8]) -> Result<Self> {
        let (index, flags) = u32_at(payload, 4).zip(u32_at(payload, 8)).ok_or_else(malformed)?;
        let mut link = Self { index, movable: flags & libc::IFF_LOOPBACK as u32 == 0, alternative_names: Vec::new() };
        for (kind, value) in attributes(payload.get(LINK_BODY..).ok_or_else(malformed)?)? {
            match kind {
                IFLA_NETNS_IMMUTABLE => link.movable &= value.first() != Some(&1),
                libc::IFLA_PROP_LIST => {
                    link.alternative_names = attributes(value)?.into_iter().map(|(_, name)| name.to_vec()).collect();
                }
                _ => {}
            }
        }
        Ok(link)
    }

    /// The name to move under. That of a template is not known, so such a device is looked up under one that
    /// belongs to it alone and gets its own as it is set up.
    fn arrival_name(&self, device: &NetDevice) -> String {
        if device.is_template() { format!("kel{}", self.index) } else { device.container_name.clone() }
    }
}

fn check_all(host: &mut Socket, container: &mut Socket, devices: &[NetDevice]) -> Result<Vec<Link>> {
    let mut links: Vec<Link> = Vec::with_capacity(devices.len());
    for device in devices {
        let link = check(host, container, device).map_err(|error| error.pointer(device.pointer()))?;
        if links.iter().any(|other| other.index == link.index) {
            return Err(Error::new("the network device is listed twice, by two of its names").pointer(device.pointer()));
        }
        links.push(link);
    }
    Ok(links)
}

/// The device, if it is there, can be moved, and finds its name free. The kernel checks as much, but the name only
/// when it has moved the device.
fn check(host: &mut Socket, container: &mut Socket, device: &NetDevice) -> Result<Link> {
    let name = &device.host_name;
    let link = find(host, name)?.ok_or_else(|| {
        Error::new(format!("the host has no network device {name:?}"))
            .errno(Errno::ENODEV)
            .hint("it must be in the network namespace that the runtime runs in")
    })?;
    if !link.movable {
        return Err(Error::new(format!("the network device {name:?} is bound to its network namespace")));
    }
    let arrival = link.arrival_name(device);
    let taken = |message: String| Err(Error::new(message).pointer(device.name_pointer()).errno(Errno::EEXIST));
    if link.alternative_names.contains(&c_string(&arrival)) {
        return taken(format!(
            "{arrival:?} is an alternative name of the network device, and cannot be its first, too"
        ));
    }
    if find(container, &arrival)?.is_some() {
        return taken(format!("the container already has a network device {arrival:?}"))
            .map_err(|error| error.hint("give another name, or end it in %d to have the kernel choose the number"));
    }
    Ok(link)
}

fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>> {
    let request = link_request(libc::RTM_GETLINK, 0, 0)
        .attribute(libc::IFLA_EXT_MASK, &libc::RTEXT_FILTER_SKIP_STATS.to_ne_bytes())?
        .attribute(libc::IFLA_IFNAME, &c_string(name))?;
    match socket.talk(request, &format!("cannot look up the network device {name:?}")) {
        Ok(answer) => answer.iter().find(|message| message.kind == libc::RTM_NEWLINK).map(parse_link).transpose(),
        Err(error) if error.os_error() == Some(Errno::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse_link(message: &Message) -> Result<Link> {
    Link::parse(&message.payload)
}

/// Moves the device and returns it as it is in the container, where its index may differ.
fn move_device(
    host: &mut Socket,
    container: &mut Socket,
    device: &NetDevice,
    link: &Link,
    namespace: BorrowedFd<'_>,
) -> Result<Link> {
    let name = link.arrival_name(device);
    let request = link_request(libc::RTM_NEWLINK, link.index, 0)
        .attribute(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes())?
        .attribute(libc::IFLA_IFNAME, &c_string(&name))?;
    host.talk(request, &format!("cannot move the network device {:?} into the container", device.host_name))?;
    find(container, &name)?.ok_or_else(|| {
        Error::new(format!("the network device {name:?} left the container on its arrival")).errno(Errno::ENODEV)
    })
}

/// Sets the device up, under its own name, and adds its addresses. Up comes first: the kernel makes the routes of
/// IPv6 addresses that are there before as the device goes up, and where it cannot it drops the address untold.
fn set_up<'a>(
    container: &mut Socket,
    device: &NetDevice,
    index: u32,
    addresses: impl Iterator<Item = &'a Address>,
) -> Result<()> {
    let mut request = up(index);
    if device.is_template() {
        request = request.attribute(libc::IFLA_IFNAME, &c_string(&device.container_name))?;
    }
    container.talk(request, &format!("cannot set the network device {:?} up in the container", device.host_name))?;
    let renamed = device.host_name != device.container_name;
    let what = format!("cannot give the network device {:?} its addresses in the container", device.host_name);
    for address in addresses {
        container.talk(address.request(index, renamed)?, &what)?;
    }
    Ok(())
}

fn up(index: u32) -> Request {
    link_request(libc::RTM_NEWLINK, index, libc::IFF_UP as u32)
}

/// A request about the link `index` (0: the one named by an attribute) that sets `flags`.
fn link_request(kind: u16, index: u32, flags: u32) -> Request {
    let mut body = [0; LINK_BODY];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..16].copy_from_slice(&flags.to_ne_bytes());
    Request::new(kind, libc::NLM_F_ACK, &body)
}

fn c_string(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

/// An address as the kernel listed it: it is added again in the same words.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    link: u32,
    /// `struct ifaddrmsg`.
    body: [u8; ADDRESS_BODY],
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// The address, if it is one to keep: of IPv4 or IPv6, permanent, of global scope.
    fn parse(payload: &[u8]) -> Result<Option<Self>> {
        let body: [u8; ADDRESS_BODY] = *payload.first_chunk().ok_or_else(malformed)?;
        let [family, _, short_flags, scope, ..] = body;
        let attributes = attributes(&payload[ADDRESS_BODY..])?;
        let long_flags = attributes.iter().find(|(kind, _)| *kind == libc::IFA_FLAGS);
        let flags = long_flags.and_then(|(_, value)| u32_at(value, 0)).unwrap_or(u32::from(short_flags));
        let is_ip = [libc::AF_INET, libc::AF_INET6].contains(&i32::from(family));
        let keep = is_ip && scope == libc::RT_SCOPE_UNIVERSE && flags & libc::IFA_F_PERMANENT != 0;
        Ok(keep.then(|| Self {
            link: u32::from_ne_bytes([body[4], body[5], body[6], body[7]]),
            body,
            attributes: attributes.into_iter().map(|(kind, value)| (kind, value.to_vec())).collect(),
        }))
    }

    fn is_ipv4(&self) -> bool {
        i32::from(self.body[0]) == libc::AF_INET
    }

    /// Adds the address to the link `index`. Its label is made of the device's name, and goes with that.
    fn request(&self, index: u32, renamed: bool) -> Result<Request> {
        let mut body = self.body;
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.attributes
            .iter()
            .filter(|(kind, _)| !renamed || *kind != libc::IFA_LABEL)
            .try_fold(Request::new(libc::RTM_NEWADDR, flags, &body), |request, (kind, value)| {
                request.attribute(*kind, value)
            })
    }
}

/// The addresses to keep, of all devices, in the order to add them: the first of a list is the preferred source
/// address, and the kernel puts a new IPv4 address last, a new IPv6 one first.
fn kept_addresses(socket: &mut Socket) -> Result<Vec<Address>> {
    let request = Request::new(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; ADDRESS_BODY]);
    let answer = socket.dump(&request, "cannot list the addresses of the network devices")?;
    let listed = answer.iter().filter(|message| message.kind == libc::RTM_NEWADDR);
    let kept = listed.filter_map(|message| Address::parse(&message.payload).transpose()).collect::<Result<Vec<_>>>()?;
    let (mut ordered, ipv6): (Vec<_>, Vec<_>) = kept.into_iter().partition(Address::is_ipv4);
    ordered.extend(ipv6.into_iter().rev());
    Ok(ordered)
}

#[cfg(test)]
mod tests;
