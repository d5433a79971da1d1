//! Decoders of everything that comes from outside, fed with made-up bytes by the million.
//!
//! There is no coverage to go by: inputs are valid ones, damaged ones, protobuf of no meaning, and
//! noise, by a generator with a seed. Of each input it is asked: no panic, no more memory than a
//! multiple of its length, what is accepted is the same after another round trip, and its paths cannot
//! leave a mount. Nothing here does I/O.
//!
//! `FUZZ_INPUTS=n` of each decoder (60,000), `FUZZ_SEED=n` to begin with (1). A failure prints the
//! input's seed; `FUZZ_INPUTS=1 FUZZ_SEED=n` does it again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stderr, reason = "figures of a long run")]
#![allow(clippy::disallowed_methods, reason = "it tells how long it took")]

mod generate;
mod meter;
mod seeds;
mod snapshots;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

use trefoil::config::{Config, Surroundings};
use trefoil::control::types::{VerifyRequest, WaitRequest, WhyRequest};
use trefoil::disk::Recipe;
use trefoil::model::limits::{FRAME_BYTES_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX};
use trefoil::model::{Record, RelPath};
use trefoil::net::frame::{self, FrameHead, HEAD_BYTES};
use trefoil::net::wire::{
    Announce, CONTROL_BYTES_MAX, ControlMessage, EnrolReply, EnrolRequest, FetchReply, LaneHead,
    Request, RpcReply,
};
use trefoil::net::{Ticket, is_address};

use generate::Rng;

/// Bytes that decoding may take for each byte of the input: an empty message costs two bytes on the
/// wire and some hundred here, twice while its list grows.
const BYTES_EACH: usize = 100;

/// And besides, whatever the input.
const BYTES_BASE: usize = 64 << 10;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Feeds a decoder. `valid` makes inputs that it takes, `decode` says whether it took one, and
/// checks what it made of it.
#[track_caller]
fn fuzz(
    name: &str,
    valid: impl Fn(&mut Rng) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> bool,
    memory: impl Fn(usize) -> usize,
) {
    let (inputs, first) = (number("FUZZ_INPUTS", 60_000), number("FUZZ_SEED", 1));
    let corpus: Vec<Vec<u8>> = (0..200).map(|n| valid(&mut Rng::new(n))).collect();
    for (n, bytes) in corpus.iter().enumerate() {
        assert!(decode(bytes), "{name}: valid input {n} is refused");
    }
    let (began, mut taken, mut bytes_sum) = (Instant::now(), 0_u64, 0_u64);
    for seed in first..first + inputs {
        let input = generate::input(&mut Rng::new(seed), &corpus);
        let before = meter::start();
        let outcome = catch_unwind(AssertUnwindSafe(|| decode(&input)));
        let peak = meter::peak(before);
        match outcome {
            Ok(was_taken) => taken += u64::from(was_taken),
            Err(_) => panic!("{name}: FUZZ_SEED={seed}: panicked at {input:02x?}"),
        }
        let bound = memory(input.len());
        assert!(peak <= bound, "{name}: FUZZ_SEED={seed}: {peak} bytes for {}", input.len());
        bytes_sum += input.len() as u64;
    }
    let seconds = began.elapsed().as_secs();
    eprintln!("{name}: {inputs} inputs, {bytes_sum} bytes, {taken} accepted, {seconds} s");
    // A generator whose inputs are all refused at the first byte tests nothing.
    assert!(inputs < 1000 || taken * 200 > inputs, "{name}: only {taken} accepted");
}

fn linear(bytes: usize) -> usize {
    BYTES_BASE + BYTES_EACH * bytes
}

/// What the rest of the program relies on, written a second time.
fn assert_contained(path: &RelPath) {
    let bytes = path.as_bytes();
    assert!(bytes.len() <= PATH_BYTES_MAX && !bytes.contains(&0));
    if bytes.is_empty() {
        return;
    }
    for name in bytes.split(|&b| b == b'/') {
        assert!(!name.is_empty() && name != b"." && name != b".." && name.len() <= NAME_BYTES_MAX);
    }
}

/// Decodes with a message's own pair of functions, and checks that what is accepted comes back.
macro_rules! round_trip {
    ($message:ty, $bytes:expr, $look:expr) => {{
        match <$message>::decode($bytes) {
            Ok(message) => {
                let again = <$message>::decode(&message.encode());
                assert_eq!(&message, &again.expect("what was accepted, encoded"));
                #[allow(clippy::redundant_closure_call, reason = "each message has its own look")]
                $look(&message);
                true
            }
            Err(_) => false,
        }
    }};
    ($message:ty, $bytes:expr, optional, $look:expr) => {{
        match <$message>::decode($bytes) {
            Ok(Some(message)) => {
                let again = <$message>::decode(&message.encode());
                assert_eq!(Some(&message), again.expect("what was accepted, encoded").as_ref());
                #[allow(clippy::redundant_closure_call, reason = "each message has its own look")]
                $look(&message);
                true
            }
            Ok(None) => true,
            Err(_) => false,
        }
    }};
}

#[test]
fn frames() {
    let open = |bytes: &[u8]| {
        let Some((head, body)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return false };
        let Ok(head) = FrameHead::parse(*head, CONTROL_BYTES_MAX) else { return false };
        assert!(head.length <= CONTROL_BYTES_MAX);
        let body = body[..body.len().min(head.length)].to_vec();
        let Ok(message) = head.open(body, CONTROL_BYTES_MAX) else { return false };
        assert!(message.len() <= CONTROL_BYTES_MAX);
        let again = frame::encode_compressed(&message).unwrap();
        let (head, body) = again.split_first_chunk::<HEAD_BYTES>().unwrap();
        let head = FrameHead::parse(*head, FRAME_BYTES_MAX).unwrap();
        assert_eq!(message, head.open(body.to_vec(), FRAME_BYTES_MAX).unwrap());
        true
    };
    fuzz("frames", seeds::frame, open, |bytes| linear(bytes) + 8 * CONTROL_BYTES_MAX);
}

#[test]
fn control_messages() {
    let look = |message: &ControlMessage| {
        if let ControlMessage::Members(members) = message {
            let addresses = members.iter().flat_map(|member| &member.addresses);
            assert!(addresses.into_iter().all(|address| is_address(address)));
        }
    };
    let decode = |bytes: &[u8]| round_trip!(ControlMessage, bytes, optional, look);
    fuzz("control messages", seeds::control, decode, linear);
}

#[test]
fn announcements() {
    let look = |announce: &Announce| {
        announce.records.iter().for_each(|announced| assert_contained(&announced.record.path));
    };
    let decode = |bytes: &[u8]| round_trip!(Announce, bytes, look);
    fuzz("announcements", seeds::announce, decode, linear);
}

#[test]
fn heads_of_lanes() {
    let decode = |bytes: &[u8]| round_trip!(LaneHead, bytes, optional, |_: &LaneHead| ());
    fuzz("heads of lanes", seeds::lane_head, decode, linear);
}

#[test]
fn requests() {
    let look = |request: &Request| match request {
        Request::Fetch(fetch) => {
            assert_contained(&fetch.path);
            assert!(fetch.offset <= fetch.size);
        }
        Request::Rpc(call) => assert!(!call.method.is_empty()),
    };
    let decode = |bytes: &[u8]| round_trip!(Request, bytes, optional, look);
    fuzz("requests", seeds::request, decode, linear);
}

#[test]
fn replies() {
    let decode = |bytes: &[u8]| {
        let fetch = round_trip!(FetchReply, bytes, |_: &FetchReply| ());
        let call = round_trip!(RpcReply, bytes, |_: &RpcReply| ());
        fetch || call
    };
    fuzz("replies", seeds::reply, decode, linear);
}

#[test]
fn recipes() {
    let decode = |bytes: &[u8]| {
        let Some((size, message)) = bytes.split_first_chunk() else { return false };
        let size = u64::from_le_bytes(*size);
        let Some(recipe) = Recipe::decode(&[message.to_vec()], size) else { return false };
        assert_eq!(Some(&recipe), Recipe::decode(&recipe.encode(), size).as_ref());
        // Whatever it says, it is all of the content, and no more.
        let plan = recipe.plan(&recipe, size / 3);
        assert_eq!(size - size / 3, plan.iter().map(|part| part.1).sum::<u64>());
        true
    };
    fuzz("recipes", seeds::recipe, decode, |bytes| 8 * linear(bytes));
}

#[test]
fn enrolments() {
    let decode = |bytes: &[u8]| {
        let request = round_trip!(EnrolRequest, bytes, |_: &EnrolRequest| ());
        let reply = round_trip!(EnrolReply, bytes, |_: &EnrolReply| ());
        request || reply
    };
    fuzz("enrolments", seeds::enrolment, decode, linear);
}

#[test]
fn records_of_the_index() {
    let look = |record: &Record| assert_contained(&record.path);
    let decode = |bytes: &[u8]| round_trip!(Record, bytes, look);
    fuzz("records of the index", seeds::record, decode, linear);
}

#[test]
fn tickets() {
    let decode = |bytes: &[u8]| {
        let Ok(ticket) = seeds::ticket_line(bytes).parse::<Ticket>() else { return false };
        assert_eq!(Ok(&ticket), ticket.to_string().parse().as_ref());
        assert!(ticket.addresses.iter().all(|address| is_address(address)));
        true
    };
    fuzz("tickets", seeds::ticket, decode, linear);
}

#[test]
fn configurations() {
    let resolve = |path: &Path| path.to_owned();
    let file = Path::new("/etc/trefoil/trefoil.toml");
    let around = Surroundings { file, host_name: "web1", resolve: &resolve };
    let decode = |bytes: &[u8]| match Config::parse(&String::from_utf8_lossy(bytes), &around) {
        Ok(config) => {
            let paths = config.mounts.iter().map(|mount| &mount.path);
            assert!(paths.into_iter().all(|path| path.is_absolute()));
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty(), "{error:?}");
            false
        }
    };
    // A table of the parser has much for each key; patterns are compiled to automata.
    fuzz("configurations", seeds::configuration, decode, |bytes| linear(bytes) + (32 << 20));
}

#[test]
fn bodies_of_the_control_api() {
    let decode = |bytes: &[u8]| {
        let wait = serde_json::from_slice::<WaitRequest>(bytes).is_ok();
        let verify = serde_json::from_slice::<VerifyRequest>(bytes).is_ok();
        let why = serde_json::from_slice::<WhyRequest>(bytes).is_ok();
        wait || verify || why
    };
    fuzz("bodies of the control API", seeds::body, decode, linear);
}

#[test]
fn paths() {
    let decode = |bytes: &[u8]| match RelPath::parse(bytes) {
        Ok(path) => {
            assert_contained(&path);
            assert_eq!(bytes, path.as_bytes());
            assert!(!path.to_string().chars().any(char::is_control), "it would forge a line");
            true
        }
        Err(_) => false,
    };
    fuzz("paths", seeds::path, decode, linear);
}
