use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};

use super::*;

fn port(bound: &Bound) -> u16 {
    match &bound.local {
        LocalAddress::Tcp(address) => address.port(),
        LocalAddress::Unix(path) => panic!("bound {}", path.display()),
    }
}

#[test]
fn the_real_port_is_told_and_connections_queue() {
    let bound = bind("127.0.0.1:0".parse().unwrap(), &[]).unwrap();
    assert_ne!(port(&bound), 0);
    let streams: Vec<_> = (0..200)
        .map(|_| TcpStream::connect(("127.0.0.1", port(&bound))).unwrap())
        .collect();
    let listener = TcpListener::from(bound.socket);
    for _ in &streams {
        // Nobody else can set it: a worker may set no options.
        assert!(listener.accept().unwrap().0.nodelay().unwrap());
    }
    let error = listener.accept().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_port_in_use_names_its_holder() {
    let bound = bind("127.0.0.1:0".parse().unwrap(), &[]).unwrap();
    for address in ["127.0.0.1", "0.0.0.0"] {
        let wanted = SocketAddr::new(address.parse().unwrap(), port(&bound));
        let error = bind(wanted, &[]).unwrap_err();
        let BindError::InUse {
            holder: Some(holder),
        } = &error
        else {
            panic!("{error:?}");
        };
        assert_eq!(holder.pid, std::process::id());
        assert!(error.to_string().contains(&format!("(pid {})", holder.pid)));
    }
}

#[test]
fn both_families_can_have_one_port() {
    let Ok(v6) = bind("[::]:0".parse().unwrap(), &[]) else {
        return; // A machine without IPv6.
    };
    bind(SocketAddr::new("0.0.0.0".parse().unwrap(), port(&v6)), &[]).unwrap();
}

#[test]
fn foreign_addresses_are_not_available() {
    let error = bind("192.0.2.1:8080".parse().unwrap(), &[]).unwrap_err();
    assert!(matches!(error, BindError::NotAvailable), "{error:?}");
}

#[test]
fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("skep.sock");
    drop(UnixListener::bind(&path).unwrap());

    let bound = bind_unix(&path).unwrap();
    assert_eq!(bound.local, LocalAddress::Unix(path.clone()));
    UnixStream::connect(&path).unwrap();

    let error = bind_unix(&path).unwrap_err();
    let BindError::InUse {
        holder: Some(holder),
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(holder.pid, std::process::id());
    UnixStream::connect(&path).unwrap();
}

#[test]
fn what_is_no_socket_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("precious");
    fs::write(&path, "x").unwrap();
    let error = bind_unix(&path).unwrap_err();
    assert!(error.to_string().contains("is no socket"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "x");
}

#[test]
fn a_missing_folder_and_a_long_path_are_named() {
    let error = bind_unix(Path::new("/nowhere/at/all/skep.sock")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the folder /nowhere/at/all does not exist"
    );
    let error = bind_unix(&PathBuf::from(format!("/tmp/{}", "x".repeat(200)))).unwrap_err();
    assert!(error.to_string().contains("108 bytes"), "{error}");
}

#[test]
fn one_port_goes_from_one_address_to_all_and_back() {
    let local = Ipv4Addr::LOCALHOST;
    let one = bind("127.0.0.1:0".parse().unwrap(), &[]).unwrap();
    let LocalAddress::Tcp(at) = one.local else {
        panic!("{:?}", one.local);
    };
    let all = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), at.port());
    assert!(matches!(bind(all, &[]), Err(BindError::InUse { .. })));
    let all = bind(all, &[one.socket.as_fd()]).unwrap();
    // Nobody else is let in by it who does not ask for it.
    let wanted = SocketAddr::new(local.into(), at.port());
    assert!(matches!(bind(wanted, &[]), Err(BindError::InUse { .. })));
    let one_accepts = TcpListener::from(one.socket);
    let client = TcpStream::connect(wanted).unwrap();
    assert_eq!(
        one_accepts.accept().unwrap().1,
        client.local_addr().unwrap()
    );
    drop(one_accepts);
    let client = TcpStream::connect(wanted).unwrap();
    let all_accepts = TcpListener::from(all.socket.try_clone().unwrap());
    assert_eq!(
        all_accepts.accept().unwrap().1,
        client.local_addr().unwrap()
    );
    bind(wanted, &[all.socket.as_fd()]).unwrap();
}
