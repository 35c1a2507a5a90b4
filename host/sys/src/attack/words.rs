//! What a process that was taken over may say to its primary.

use std::io;
use std::time::{Duration, Instant};

use super::Target;
use super::attempts::call;

/// How long it goes on.
const TIME: Duration = Duration::from_secs(6);

/// Says the lines of the text over and over, each as a message, and reads nothing.
/// `MANY` in them stands for many short texts, other ones each time, and `LONG`
/// for a long one.
pub(super) fn tell(target: &Target) -> io::Result<String> {
    let end = Instant::now() + TIME;
    let mut said = 0_u64;
    for line in target.text.lines().cycle() {
        if Instant::now() >= end {
            break;
        }
        let mut payload = line.to_owned();
        if payload.contains("MANY") {
            let many: Vec<String> = (0..15_000)
                .map(|text| format!("\"{said}.{text}\""))
                .collect();
            payload = payload.replace("MANY", &many.join(","));
        }
        payload = payload.replace("LONG", &"x".repeat(200_000));
        let length = u32::try_from(payload.len()).unwrap_or_default();
        let mut frame = b"SK\x01\0".to_vec();
        frame.extend(length.to_le_bytes());
        frame.extend(payload.bytes());
        let mut sent = 0;
        while sent < frame.len() && Instant::now() < end {
            let rest = &frame[sent..];
            match call(libc::SYS_write, &[3, rest.as_ptr() as usize, rest.len()]) {
                Ok(count) => sent += count.trim_start_matches("returned ").parse().unwrap_or(0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        said += 1;
    }
    Ok(format!("said {said} messages"))
}
