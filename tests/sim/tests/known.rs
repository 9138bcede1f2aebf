//! Faults of the libraries below the simulator, each as small as it can be shown. When one of these tests fails,
//! the library was mended: then what was done around it can go.

use std::time::Duration;

use turmoil::{Builder, net::TcpListener, net::TcpStream};

/// turmoil 0.7.2 draws a message's latency between a link's least and greatest. `set_link_latency` sets both, so
/// that a lower greatest one set later leaves a span below zero. The simulator sets the greatest only.
#[test]
fn turmoil_panics_where_the_greatest_latency_is_below_the_least() {
    let lived = std::panic::catch_unwind(|| {
        let mut sim = Builder::new().build();
        sim.host("server", || async {
            let listener = TcpListener::bind(("0.0.0.0", 1)).await?;
            loop {
                let _connection = listener.accept().await?;
            }
        });
        sim.client("client", async {
            let _connection = TcpStream::connect(("server", 1)).await?;
            Ok(())
        });
        sim.set_link_latency("client", "server", Duration::from_millis(100));
        sim.set_link_max_message_latency("client", "server", Duration::from_millis(10));
        sim.run().is_ok()
    });
    assert!(!matches!(lived, Ok(true)), "turmoil is mended");
}
