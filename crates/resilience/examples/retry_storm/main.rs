//! What a fault of ten seconds does to a service, by what its clients and it defend themselves with.
//!
//! `cargo run -p resilience --example retry_storm` prints the table of docs/resilience.md. Nothing in it is random or
//! timed: it is the state machines of the crate, driven through two simulated minutes.

mod world;

fn main() {
    print!("{}", world::table(&world::DEFENCES.map(world::run)));
}
