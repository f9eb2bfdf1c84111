//! Random calls, against the model; and the tools look at the result.

use proptest::prelude::*;

use super::model::{Call, Node, Pair, calls, named};
use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_calls_do_what_the_model_does(list in proptest::collection::vec(calls(600_000, 20_000), 1..120)) {
        let mut pair = Pair::new(tools::make(16, &[]));
        pair.disk.history = None;
        for (at, call) in list.iter().enumerate() {
            pair.make(call);
            if at % 16 == 0 {
                pair.compare();
            }
        }
        pair.make(&Call::Sync);
        pair.compare();
        tools::check_preen(&pair.disk.image);
        let Pair { fs, mut disk, model, .. } = pair;
        fs.unmount(&mut disk).unwrap();
        prop_assert_eq!(disk.buffers, 0);
        let fs = mount(&mut disk);
        fs.unmount(&mut disk).unwrap();
        tools::check_clean(&disk.image);
        let dumped = tools::dump(&disk.image);
        for (path, (node, _)) in named(&model) {
            let path = dumped.path().join(std::str::from_utf8(&path).unwrap().trim_start_matches('/'));
            match node {
                Node::File(content) => prop_assert!(std::fs::read(&path).unwrap() == content),
                Node::Dir(_) => prop_assert!(path.is_dir()),
                Node::Link(target) => {
                    let found = std::fs::read_link(&path).unwrap();
                    prop_assert_eq!(found.as_os_str().as_encoded_bytes(), target);
                }
            }
        }
    }
}
