use super::*;

fn devices(names: &[(&str, Option<&str>)]) -> HashMap<String, LinuxNetDevice> {
    let device = |name: Option<&str>| {
        let mut device = LinuxNetDevice::default();
        device.set_name(name.map(str::to_owned));
        device
    };
    names.iter().map(|(host, container)| ((*host).to_owned(), device(*container))).collect()
}

fn error(names: &[(&str, Option<&str>)]) -> String {
    plan(Some(&devices(names)), true).unwrap_err().to_string()
}

fn pointer_of(names: &[(&str, Option<&str>)]) -> String {
    let details = plan(Some(&devices(names)), true).unwrap_err().details();
    details.into_iter().find(|(key, _)| *key == "pointer").unwrap().1
}

#[test]
fn the_plan_is_sorted_and_names_default_to_the_hosts() {
    let planned = plan(Some(&devices(&[("eth1", Some("net%d")), ("eth0", None), ("eth2", Some("net%d"))])), true);
    let device =
        |host: &str, container: &str| NetDevice { host_name: host.to_owned(), container_name: container.to_owned() };
    assert_eq!(planned.unwrap(), [device("eth0", "eth0"), device("eth1", "net%d"), device("eth2", "net%d")]);
    assert_eq!(plan(None, false).unwrap(), []);
    assert_eq!(plan(Some(&HashMap::new()), false).unwrap(), []);
}

#[test]
fn devices_need_a_network_namespace() {
    let error = plan(Some(&devices(&[("eth0", None)])), false).unwrap_err();
    assert!(error.to_string().contains("(config.json /linux/netDevices)"), "{error}");
}

#[test]
fn names_that_no_device_can_have_are_refused() {
    for name in ["", ".", "..", "a/b", "a b", "a:b", "a\tb", "a\0b", "a\u{a0}b", "\u{e0}", "abcdefghijklmnop"] {
        assert!(plan(Some(&devices(&[(name, Some("ok"))])), true).is_err(), "{name:?}");
        assert!(plan(Some(&devices(&[("ok", Some(name))])), true).is_err(), "{name:?}");
    }
    for name in ["%", "a%s", "%d%d", "%%d", "100%"] {
        assert!(plan(Some(&devices(&[("ok", Some(name))])), true).is_err(), "{name:?}");
    }
    assert!(plan(Some(&devices(&[("eth%d", Some("ok"))])), true).is_err());
    for name in ["a", "abcdefghijklmno", "b\u{fc}ro", "e%d", "a.b"] {
        assert!(plan(Some(&devices(&[("ok", Some(name))])), true).is_ok(), "{name:?}");
    }
}

#[test]
fn two_devices_cannot_share_a_name() {
    assert!(error(&[("eth0", Some("net0")), ("eth1", Some("net0"))]).contains("/linux/netDevices/eth1/name"));
    assert!(error(&[("eth0", Some("eth1")), ("eth1", None)]).contains("/linux/netDevices/eth1)"));
}

#[test]
fn errors_point_at_the_place_in_the_config() {
    assert_eq!(pointer_of(&[("a~/b", None)]), "/linux/netDevices/a~0~1b");
    assert_eq!(pointer_of(&[("eth0", Some("a b"))]), "/linux/netDevices/eth0/name");
}

#[test]
fn a_link_says_whether_it_can_be_moved_and_its_names() {
    let link = |flags: u32, attributes: &[u8]| {
        let head = [[0; 4], 7_u32.to_ne_bytes(), flags.to_ne_bytes(), [0; 4]].concat();
        Link::parse(&[&head, attributes].concat())
    };
    let immutable = |value: u8| [5_u16.to_ne_bytes(), IFLA_NETNS_IMMUTABLE.to_ne_bytes(), [value, 0], [0, 0]].concat();
    let device = |movable: bool, names: &[&str]| Link {
        index: 7,
        movable,
        alternative_names: names.iter().map(|name| c_string(name)).collect(),
    };
    assert_eq!(link(1, &[]), Ok(device(true, &[])));
    assert_eq!(link(1, &immutable(0)), Ok(device(true, &[])));
    assert_eq!(link(1, &immutable(1)), Ok(device(false, &[])));
    assert_eq!(link(libc::IFF_LOOPBACK as u32, &[]), Ok(device(false, &[])));
    let name = [&6_u16.to_ne_bytes()[..], &libc::IFLA_ALT_IFNAME.to_ne_bytes(), b"a\0\0\0"].concat();
    let list = [&12_u16.to_ne_bytes()[..], &(libc::IFLA_PROP_LIST | 0x8000).to_ne_bytes(), &name].concat();
    assert_eq!(link(1, &list), Ok(device(true, &["a"])));
    assert!(Link::parse(&[0; 15]).is_err());
}

/// The payload of an address's message: 10.0.0.1/24 on link 3, labelled.
fn address(family: i32, flags: u8, scope: u8, more: &[u8]) -> Vec<u8> {
    let label = [8_u16.to_ne_bytes(), libc::IFA_LABEL.to_ne_bytes(), *b"e0", *b":1"].concat();
    let local = [&8_u16.to_ne_bytes()[..], &libc::IFA_LOCAL.to_ne_bytes(), &[10, 0, 0, 1]].concat();
    let head = [&[family as u8, 24, flags, scope], &3_u32.to_ne_bytes()[..]].concat();
    [&head, &local, &label, more].concat()
}

#[test]
fn permanent_global_ip_addresses_are_kept() {
    let long_flags =
        |flags: u32| [&8_u16.to_ne_bytes()[..], &libc::IFA_FLAGS.to_ne_bytes(), &flags.to_ne_bytes()].concat();
    let kept = |payload: &[u8]| Address::parse(payload).unwrap().is_some();
    assert!(kept(&address(libc::AF_INET, 0x80, 0, &[])));
    assert!(kept(&address(libc::AF_INET6, 0, 0, &long_flags(0x280))));
    assert!(!kept(&address(libc::AF_INET6, 0x80, 0, &long_flags(0x200))), "the long flags hold");
    assert!(!kept(&address(libc::AF_INET, 0, 0, &[])), "dynamic");
    assert!(!kept(&address(libc::AF_INET6, 0x80, 253, &[])), "of the link");
    assert!(!kept(&address(libc::AF_PHONET, 0x80, 0, &[])), "not IP");
    assert!(Address::parse(&[2, 24, 0x80, 0]).is_err());
    assert!(Address::parse(&address(libc::AF_INET, 0x80, 0, &[1, 0])).is_err());
}

#[test]
fn an_address_is_added_in_the_kernels_words() {
    let payload = address(libc::AF_INET, 0x80, 0, &[]);
    let address = Address::parse(&payload).unwrap().unwrap();
    assert_eq!(address.link, 3);
    let debug = |request: Request| format!("{request:?}");
    let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let request = |body: &[u8]| debug(Request::new(libc::RTM_NEWADDR, flags, body));
    assert_eq!(debug(address.request(3, false).unwrap()), request(&payload));
    let mut moved = payload[..16].to_vec();
    moved[4..8].copy_from_slice(&9_u32.to_ne_bytes());
    assert_eq!(debug(address.request(9, true).unwrap()), request(&moved), "without the label");
}
