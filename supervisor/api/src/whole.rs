//! Whole numbers of requests: JSON has one kind of numbers, in which 4.0 is 4.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// Above this, not every whole number can be told from its neighbours.
const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;

/// For fields that have to be there.
pub(crate) fn number<'de, D: Deserializer<'de>, T: TryFrom<u64> + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Whole::deserialize(from).map(|Whole(number)| number)
}

/// For fields that may be left out.
pub(crate) fn optional<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64> + Deserialize<'de>,
{
    Option::<Whole<T>>::deserialize(from).map(|number| number.map(|Whole(number)| number))
}

struct Whole<T>(T);

impl<'de, T: TryFrom<u64> + Deserialize<'de>> Deserialize<'de> for Whole<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        if from.is_human_readable() {
            from.deserialize_u64(Reader(PhantomData))
        } else {
            T::deserialize(from).map(Whole)
        }
    }
}

struct Reader<T>(PhantomData<T>);

impl<T: TryFrom<u64>> Visitor<'_> for Reader<T> {
    type Value = Whole<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a whole number that fits {} bits", size_of::<T>().saturating_mul(8))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        T::try_from(number).map(Whole).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        let whole = u64::try_from(number).ok().and_then(|number| T::try_from(number).ok());
        whole.map(Whole).ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
        let exact = number.fract() == 0.0 && (0.0..=LARGEST_EXACT).contains(&number);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole and in range")]
        let whole = exact.then_some(number as u64).and_then(|number| T::try_from(number).ok());
        whole.map(Whole).ok_or_else(|| E::invalid_value(Unexpected::Float(number), &self))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::request::NewVm;

    #[test]
    fn numbers_are_whole_however_they_are_written() {
        let read = |text: &str| serde_json::from_str::<NewVm>(&format!(r#"{{"name":"x","cpus":{text}}}"#));
        for text in ["4", "4.0", "0.4e1"] {
            assert_eq!(read(text).unwrap().cpus, Some(4), "{text}");
        }
        assert_eq!(read("null").unwrap().cpus, None);
        for text in ["-1", "1.5", "-0.5", "4294967296", "1e300", "\"4\"", "[]"] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("expected a whole number that fits 32 bits"), "{text}: {error}");
        }
        let owner = |uid: &str| serde_json::from_str::<crate::Owner>(&format!(r#"{{"uid":{uid}}}"#));
        assert_eq!(owner("7.0").unwrap(), crate::Owner { uid: 7, gid: None });
        assert!(owner("null").is_err());
    }
}
