//! The program; see the library.

fn main() {
    let mut words = std::env::args().skip(1);
    let mode = words.next().unwrap_or_default();
    let mut number = |otherwise: u64| {
        words
            .next()
            .map_or(otherwise, |word| word.parse().expect("a number"))
    };
    match mode.as_str() {
        "alone" => skep_fuzz_http1::run::alone(number(1_000_000), number(1)),
        "hyper" => skep_fuzz_http1::run::beside_hyper(number(1_000_000), number(1)),
        "nginx" => skep_fuzz_http1::nginx::behind(number(10_000), number(1)),
        "cost" => skep_fuzz_http1::cost::spend(number(0), number(10_000)),
        _ => panic!("alone, hyper, nginx or cost"),
    }
}
