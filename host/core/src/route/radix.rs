//! A radix tree over bytes: all stored keys that are a prefix of a given key
//! are found in one walk, whose cost depends on that key's length and not on
//! how many are stored.

#[derive(Clone, Debug)]
pub(super) struct Radix<V> {
    /// The first is the root, with an empty label.
    nodes: Vec<Node<V>>,
}

#[derive(Clone, Debug)]
struct Node<V> {
    label: Box<[u8]>,
    /// By the first byte of their labels, in order.
    children: Vec<(u8, usize)>,
    value: V,
}

impl<V: Default> Radix<V> {
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![Node {
                label: Box::default(),
                children: Vec::new(),
                value: V::default(),
            }],
        }
    }

    /// The value of `key`, made if it is new.
    pub(super) fn entry(&mut self, key: &[u8]) -> &mut V {
        let mut at = 0;
        let mut rest = key;
        while let Some(&first) = rest.first() {
            let place = self.nodes[at]
                .children
                .binary_search_by_key(&first, |child| child.0);
            match place {
                Err(place) => {
                    let leaf = self.push(rest, Vec::new());
                    self.nodes[at].children.insert(place, (first, leaf));
                    at = leaf;
                    rest = &[];
                }
                Ok(place) => {
                    let child = self.nodes[at].children[place].1;
                    let label = &self.nodes[child].label;
                    let common = label.iter().zip(rest).take_while(|(a, b)| a == b).count();
                    let next = if common < label.len() {
                        let upper = self.split(child, common);
                        self.nodes[at].children[place].1 = upper;
                        upper
                    } else {
                        child
                    };
                    at = next;
                    rest = &rest[common..];
                }
            }
        }
        &mut self.nodes[at].value
    }

    /// Puts a node above `node` that takes the first `length` bytes of its
    /// label.
    fn split(&mut self, node: usize, length: usize) -> usize {
        let label = std::mem::take(&mut self.nodes[node].label);
        let (upper, lower) = label.split_at(length);
        self.nodes[node].label = lower.into();
        self.push(upper, vec![(lower[0], node)])
    }

    fn push(&mut self, label: &[u8], children: Vec<(u8, usize)>) -> usize {
        self.nodes.push(Node {
            label: label.into(),
            children,
            value: V::default(),
        });
        self.nodes.len() - 1
    }
}

impl<V> Radix<V> {
    /// Visits every node whose key is a prefix of `key`, shortest first, with
    /// the length of its key.
    pub(super) fn walk<'a>(
        &'a self,
        key: impl Iterator<Item = u8>,
        mut visit: impl FnMut(usize, &'a V),
    ) {
        let mut key = key;
        let mut node = &self.nodes[0];
        let mut length = 0;
        visit(length, &node.value);
        while let Some(first) = key.next() {
            let Ok(place) = node.children.binary_search_by_key(&first, |child| child.0) else {
                return;
            };
            node = &self.nodes[node.children[place].1];
            for &byte in &node.label[1..] {
                if key.next() != Some(byte) {
                    return;
                }
            }
            length += node.label.len();
            visit(length, &node.value);
        }
    }
}
