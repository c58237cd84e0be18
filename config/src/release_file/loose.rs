//! Values of any type in place of the one that is expected, so that one of them fails no more than what it is of.

use std::fmt;
use std::marker::PhantomData;

use blat_domain::policy::release::row::Cell;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_yaml::Spanned;

/// A field that was given, whatever its value: null is not the same as nothing at all.
pub(super) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// One value, in either form.
pub(super) trait Scalar: for<'de> Deserialize<'de> {
    /// The value, where it is part of `text`.
    fn cell(self, text: &str) -> Cell;

    /// The value, where it says yes or no.
    fn flag(self) -> Cell;
}

/// In YAML a plain scalar is taken as it is written: 7.10 is no number that could be 7.1.
pub(super) type Yaml = Spanned<Loose>;
/// In JSON text is quoted, and a number is a number.
pub(super) type Json = Loose;

impl Scalar for Yaml {
    fn cell(self, text: &str) -> Cell {
        let span = self.defined.span();
        let written = || {
            let from = usize::try_from(span.byte_offset()?).ok()?;
            Some(text.get(from..from + usize::try_from(span.byte_len()?).ok()?)?.trim().to_owned())
        };
        match self.value.0 {
            Cell::Number(read) => Cell::Text(written().unwrap_or(read)),
            Cell::Flag(read) => Cell::Text(written().unwrap_or_else(|| read.to_string())),
            cell => cell,
        }
    }

    fn flag(self) -> Cell {
        match self.value.0 {
            // The words that YAML has had for it.
            Cell::Text(word) => match word.to_ascii_lowercase().as_str() {
                "yes" | "y" | "on" | "true" => Cell::Flag(true),
                "no" | "n" | "off" | "false" => Cell::Flag(false),
                _ => Cell::Text(word),
            },
            cell => cell,
        }
    }
}

impl Scalar for Json {
    fn cell(self, _: &str) -> Cell {
        self.0
    }

    fn flag(self) -> Cell {
        self.0
    }
}

/// Any value, seen as one that a row may have.
pub(super) struct Loose(pub(super) Cell);

/// A list, or something else in its place.
pub(super) enum Many<T> {
    Good(Vec<T>),
    /// What it is instead.
    Odd(String),
}

/// An entry of a list that is a mapping, or something else in its place.
pub(super) enum Entry<T> {
    Good(T),
    /// What it is instead.
    Odd(String),
}

/// What a visitor makes of a value that has no parts.
macro_rules! visit_scalars {
    ($make:expr) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a value")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($make(Cell::Missing))
        }

        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok($make(Cell::Missing))
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_any(self)
        }

        fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
            Ok($make(Cell::Flag(value)))
        }

        fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
            Ok($make(Cell::Number(value.to_string())))
        }

        fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
            Ok($make(Cell::Number(value.to_string())))
        }

        fn visit_i128<E>(self, value: i128) -> Result<Self::Value, E> {
            Ok($make(Cell::Number(value.to_string())))
        }

        fn visit_u128<E>(self, value: u128) -> Result<Self::Value, E> {
            Ok($make(Cell::Number(value.to_string())))
        }

        // With its point, so that it is never taken for a whole number.
        fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
            Ok($make(Cell::Number(format!("{value:?}"))))
        }

        fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
            Ok($make(Cell::Text(value.to_owned())))
        }
    };
}

/// Reads on to the end of a list that nobody needs.
fn skip_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<(), A::Error> {
    while list.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

/// Reads on to the end of a mapping that nobody needs.
fn skip_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

const LIST: &str = "a list";
const MAPPING: &str = "a mapping";

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Loose;
            visit_scalars!(Loose);

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Loose, A::Error> {
                skip_list(list).map(|()| Loose(Cell::other(LIST, "")))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Loose, A::Error> {
                skip_map(map).map(|()| Loose(Cell::other(MAPPING, "")))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Many<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Any<T> {
            type Value = Many<T>;
            visit_scalars!(|cell: Cell| Many::Odd(cell.to_string()));

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Many<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = list.next_element()? {
                    entries.push(entry);
                }
                Ok(Many::Good(entries))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Many<T>, A::Error> {
                skip_map(map).map(|()| Many::Odd(MAPPING.into()))
            }
        }
        deserializer.deserialize_any(Any(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entry<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Any<T> {
            type Value = Entry<T>;
            visit_scalars!(|cell: Cell| Entry::Odd(cell.to_string()));

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Entry<T>, A::Error> {
                skip_list(list).map(|()| Entry::Odd(LIST.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Entry::Good)
            }
        }
        deserializer.deserialize_any(Any(PhantomData))
    }
}
