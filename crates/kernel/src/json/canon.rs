//! Writing a value in canonical form (RFC 8785): serde_json writes, and what it leaves to a
//! formatter is done here, which is the order of members and the form of numbers.

use std::cell::RefCell;
use std::io;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};
use serde_json::{Number, Value};

/// What most canonical forms fit into.
const FORM_BYTES: usize = 1024;
/// Up to here every whole number is a double, written with the digits that it has.
const WHOLE_MAX: u64 = 1 << 53;

/// The canonical form of `value`.
pub(super) fn form<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Vec<u8>> {
    let form = RefCell::new(Vec::with_capacity(FORM_BYTES));
    let mut canon = Canon { form: &form, members: Vec::new(), open: Vec::new(), name: false };
    value.serialize(&mut Serializer::with_formatter(Form(&form), &mut canon))?;
    Ok(form.into_inner())
}

/// What is written so far. Its formatter looks at it too.
#[derive(Clone, Copy)]
struct Form<'a>(&'a RefCell<Vec<u8>>);

impl io::Write for Form<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where in the form a member of an open object is, its comma aside.
#[derive(Clone, Copy, Default)]
struct Member {
    start: usize,
    name_end: usize,
    end: usize,
}

impl Member {
    fn whole(self, form: &[u8]) -> &[u8] {
        form.get(self.start..self.end).unwrap_or_default()
    }

    /// The name as it is written, quotes included.
    fn quoted(self, form: &[u8]) -> &[u8] {
        form.get(self.start..self.name_end).unwrap_or_default()
    }

    /// The name as it is written.
    fn name(self, form: &[u8]) -> &[u8] {
        form.get(self.start.saturating_add(1)..self.name_end.saturating_sub(1)).unwrap_or_default()
    }

    /// Whether the name's bytes, as they are written, have the order of its UTF-16 units.
    fn is_plain(self, form: &[u8]) -> bool {
        self.name(form).iter().all(|byte| byte.is_ascii() && *byte != b'\\')
    }

    /// The UTF-16 units of the name.
    fn units(self, form: &[u8]) -> serde_json::Result<Vec<u16>> {
        let name: String = serde_json::from_slice(self.quoted(form))?;
        Ok(name.encode_utf16().collect())
    }
}

struct Canon<'a> {
    form: &'a RefCell<Vec<u8>>,
    /// The members of all objects that are open, those of the innermost last.
    members: Vec<Member>,
    /// Where in `members` each open object begins.
    open: Vec<usize>,
    /// Whether a name is written, in which a number is a text and keeps its digits.
    name: bool,
}

impl Canon<'_> {
    fn here(&self) -> usize {
        self.form.borrow().len()
    }

    fn member(&mut self) -> io::Result<&mut Member> {
        self.members.last_mut().ok_or_else(|| io::Error::other("a member outside an object"))
    }
}

/// Puts the members of an object, of which nothing is written behind them, in the order of their
/// names' UTF-16 units. A name occurs once.
fn order(form: &mut Vec<u8>, members: &mut [Member]) -> serde_json::Result<()> {
    let Some(start) = members.first().map(|member| member.start) else { return Ok(()) };
    if members.iter().all(|member| member.is_plain(form)) {
        if members.is_sorted_by(|a, b| a.name(form) <= b.name(form)) {
            return Ok(());
        }
        members.sort_unstable_by(|a, b| a.name(form).cmp(b.name(form)));
    } else {
        let named = members.iter().map(|member| Ok((member.units(form)?, *member)));
        let mut named = named.collect::<serde_json::Result<Vec<_>>>()?;
        named.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (place, (_, member)) in members.iter_mut().zip(named) {
            *place = member;
        }
    }
    let mut ordered = Vec::with_capacity(form.len() - start);
    for (nth, member) in members.iter().enumerate() {
        if nth > 0 {
            ordered.push(b',');
        }
        ordered.extend_from_slice(member.whole(form));
    }
    form.truncate(start);
    form.append(&mut ordered);
    Ok(())
}

/// A whole number that may be beyond a double's digits; none is beyond a double itself.
fn wide<W: io::Write + ?Sized>(out: &mut W, number: Option<Number>) -> io::Result<()> {
    let double = number.and_then(|number| number.as_f64());
    double.map_or_else(|| Err(io::Error::other("a number beyond a double")), |d| written(out, d))
}

/// A double as ECMAScript writes it.
fn written<W: io::Write + ?Sized>(out: &mut W, double: f64) -> io::Result<()> {
    out.write_all(ryu_js::Buffer::new().format_finite(double).as_bytes())
}

impl Formatter for &mut Canon<'_> {
    fn write_i64<W: io::Write + ?Sized>(&mut self, out: &mut W, value: i64) -> io::Result<()> {
        match value.unsigned_abs() {
            0..=WHOLE_MAX => CompactFormatter.write_i64(out, value),
            _ if self.name => CompactFormatter.write_i64(out, value),
            _ => wide(out, Some(value.into())),
        }
    }

    fn write_u64<W: io::Write + ?Sized>(&mut self, out: &mut W, value: u64) -> io::Result<()> {
        match value {
            0..=WHOLE_MAX => CompactFormatter.write_u64(out, value),
            _ if self.name => CompactFormatter.write_u64(out, value),
            _ => wide(out, Some(value.into())),
        }
    }

    fn write_i128<W: io::Write + ?Sized>(&mut self, out: &mut W, value: i128) -> io::Result<()> {
        match self.name {
            true => CompactFormatter.write_i128(out, value),
            false => wide(out, Number::from_i128(value)),
        }
    }

    fn write_u128<W: io::Write + ?Sized>(&mut self, out: &mut W, value: u128) -> io::Result<()> {
        match self.name {
            true => CompactFormatter.write_u128(out, value),
            false => wide(out, Number::from_u128(value)),
        }
    }

    fn write_f32<W: io::Write + ?Sized>(&mut self, out: &mut W, value: f32) -> io::Result<()> {
        written(out, value.into())
    }

    fn write_f64<W: io::Write + ?Sized>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        written(out, value)
    }

    fn begin_object<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        self.open.push(self.members.len());
        CompactFormatter.begin_object(out)
    }

    fn begin_object_key<W: io::Write + ?Sized>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> io::Result<()> {
        CompactFormatter.begin_object_key(out, first)?;
        self.members.push(Member { start: self.here(), ..Member::default() });
        self.name = true;
        Ok(())
    }

    fn end_object_key<W: io::Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.name = false;
        self.member()?.name_end = self.here();
        Ok(())
    }

    fn end_object_value<W: io::Write + ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.member()?.end = self.here();
        Ok(())
    }

    fn end_object<W: io::Write + ?Sized>(&mut self, out: &mut W) -> io::Result<()> {
        let first = self.open.pop().unwrap_or_default();
        let members = self.members.get_mut(first..).unwrap_or_default();
        order(&mut self.form.borrow_mut(), members)?;
        self.members.truncate(first);
        CompactFormatter.end_object(out)
    }

    /// Text as it was received may have any form: its value has one.
    fn write_raw_fragment<W: io::Write + ?Sized>(
        &mut self,
        _: &mut W,
        text: &str,
    ) -> io::Result<()> {
        let value: Value = serde_json::from_str(text)?;
        value.serialize(&mut Serializer::with_formatter(Form(self.form), &mut **self))?;
        Ok(())
    }
}
