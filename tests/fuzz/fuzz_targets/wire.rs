//! Messages between processes: no bytes panic, and what decodes encodes again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skep_wire::{Decoder, FromBuilder, FromWorker, Message, ToBuilder, ToWorker};

fn drain<M: Message + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let mut decoder = Decoder::<()>::default();
    for piece in bytes.chunks(7) {
        decoder.push(piece, [()]);
        while let Ok(Some((message, _))) = decoder.message::<M>() {
            let frame = skep_wire::encode(&message).expect("it was small enough to arrive");
            let mut again = Decoder::default();
            again.push(&frame, std::iter::repeat_n((), message.fds()));
            let (twice, _) = again.message::<M>().unwrap().unwrap();
            assert_eq!(message, twice);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    drain::<ToWorker>(bytes);
    drain::<FromWorker>(bytes);
    drain::<ToBuilder>(bytes);
    drain::<FromBuilder>(bytes);
});
