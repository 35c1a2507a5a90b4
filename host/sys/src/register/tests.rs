use super::*;

fn ended(outcome: usize, window: u64) -> Ending {
    Ending {
        outcome,
        status: Some(1),
        latency: Some(Took {
            bucket: 3,
            fine: 200,
            window,
        }),
    }
}

#[test]
fn what_a_worker_counts_the_primary_reads() {
    let ours = Register::create().unwrap();
    let theirs = Register::open(ours.as_fd().try_clone_to_owned().unwrap()).unwrap();
    assert_eq!(ours.read(7), None);
    let row = theirs.row(7).unwrap();
    for _ in 0..3 {
        row.request_began();
    }
    row.request_ended(ended(2, 10));
    row.request_ended(Ending {
        outcome: 99,
        status: None,
        latency: None,
    });
    row.add_cpu(500);
    row.queued();
    row.queued();
    row.no_longer_queued();
    row.add_instances(3);
    row.add_instances(-1);
    row.add_guest_memory(1 << 40);
    row.add_guest_memory(-1);

    let read = ours.read(7).unwrap();
    assert_eq!(read.requests, 3);
    assert_eq!((read.outcomes[2], read.outcomes[OUTCOMES - 1]), (1, 1));
    assert_eq!(read.statuses, [0, 1, 0, 0, 0]);
    assert_eq!((read.latency[3], read.latency.len()), (1, BUCKETS));
    assert_eq!(read.cpu_nanos, 500);
    assert_eq!((read.queued, read.instances), (1, 2));
    assert_eq!(read.guest_memory, (1 << 40) - 1);
    assert_eq!((read.windows[0].0, read.windows[0].1[200]), (10, 1));

    // The next window but one takes the place of the first.
    row.request_ended(ended(2, 11));
    row.request_ended(ended(2, 12));
    let read = ours.read(7).unwrap();
    let windows = read.windows.map(|(number, counts)| (number, counts[200]));
    assert_eq!(windows, [(12, 1), (11, 1)]);

    ours.clear(7);
    let cleared = ours.read(7).unwrap();
    assert_eq!((cleared.requests, cleared.outcomes[2]), (0, 0));
    assert!(ours.row(ROWS).is_none() && ours.read(ROWS).is_none());
    ours.clear(ROWS);
    ours.row(ROWS - 1).unwrap().request_began();
    assert_eq!(theirs.read(ROWS - 1).unwrap().requests, 1);
}

#[test]
fn memory_that_is_no_register_is_refused_and_its_size_is_final() {
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    assert!(Register::open(file.into()).is_err());
    let odd = memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    ftruncate(&odd, 8192).unwrap();
    assert!(Register::open(odd.try_clone().unwrap()).is_err());
    fcntl(&odd, FcntlArg::F_ADD_SEALS(SEALS)).unwrap();
    assert!(Register::open(odd).is_err());
    let register = Register::create().unwrap();
    assert!(ftruncate(register.as_fd(), 0).is_err());
}

#[test]
fn memory_is_spent_on_what_was_counted_only() {
    let register = Register::create().unwrap();
    for row in 0..ROWS {
        assert_eq!(register.read(row), None);
        register.clear(row);
    }
    for row in 0..10 {
        register.row(row * 100).unwrap().request_began();
    }
    let blocks = fstat(&register.memory).unwrap().st_blocks;
    // The head, and a page for each row; blocks are of 512 bytes.
    assert_eq!(blocks, 11 * 8);
}
