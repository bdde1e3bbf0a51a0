//! The tiled layout of a log (C2SP tlog-tiles): which files there are, their names and contents.

use std::fmt;
use std::str::FromStr;

use crate::values::Digest;

/// Hashes in a full tile, and entries in a full bundle.
pub const TILE_WIDTH: u16 = 256;
/// Bytes of one log entry: its length is written as a 16-bit number.
pub const ENTRY_BYTES_MAX: usize = 65_535;
/// Levels that a tree of 64-bit size can have tiles on: 0 to 7.
pub const TILE_LEVELS: u8 = 8;

/// Why a tile is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not the path of a tile.
    #[error(
        "not a tile's path: write tile/<level>/<index> or tile/entries/<index>, with .p/<width>"
    )]
    Path,
    /// Level, index and width belong to no tile.
    #[error("no such tile: level {TILE_LEVELS} and up, width 0 or width over {TILE_WIDTH}")]
    Tile,
    /// The file does not hold as many hashes or entries as its name says.
    #[error("the tile does not hold what its name says: fetch it again")]
    Content,
    /// An entry is too long.
    #[error("an entry of {0} bytes does not fit a bundle: the most is {ENTRY_BYTES_MAX}")]
    EntryTooLong(usize),
}

impl Error {
    /// A stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Path => "tile_path",
            Self::Tile => "tile_unknown",
            Self::Content => "tile_content",
            Self::EntryTooLong(_) => "tile_entry_too_long",
        }
    }
}

/// What a tile holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Hashes, at this level: each is the root over 256^level leaves.
    Hashes(u8),
    /// The entries themselves.
    Entries,
}

/// The name of one file of a log. Prints and parses as `tile/<level>/<index>[.p/<width>]` or
/// `tile/entries/<index>[.p/<width>]`, the index in groups of three digits: `x001/x234/067`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tile {
    kind: Kind,
    index: u64,
    width: u16,
}

impl Tile {
    /// The tile `index` of a kind, `width` hashes or entries wide (1 to 256).
    pub fn new(kind: Kind, index: u64, width: u16) -> Result<Self, Error> {
        let level_known = !matches!(kind, Kind::Hashes(TILE_LEVELS..));
        if level_known && (1..=TILE_WIDTH).contains(&width) {
            Ok(Self { kind, index, width })
        } else {
            Err(Error::Tile)
        }
    }

    /// What it holds.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its place among the tiles of its kind, from 0.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// How many hashes or entries it holds, 1 to 256.
    pub fn width(&self) -> u16 {
        self.width
    }

    /// Whether it is full, and so will never change.
    pub fn is_full(&self) -> bool {
        self.width == TILE_WIDTH
    }

    /// The tile that holds hash or entry number `item` of a kind in a tree of `size` leaves.
    pub fn holding(kind: Kind, item: u64, size: u64) -> Option<Self> {
        let total = items(kind, size);
        if item >= total {
            return None;
        }
        Self::at(kind, item / u64::from(TILE_WIDTH), total)
    }

    /// The tile `index` where the kind has `total` items; none where that lies beyond them.
    fn at(kind: Kind, index: u64, total: u64) -> Option<Self> {
        let before = index.checked_mul(u64::from(TILE_WIDTH))?;
        let width = total.saturating_sub(before).min(u64::from(TILE_WIDTH));
        Self::new(kind, index, u16::try_from(width).ok()?).ok()
    }
}

/// How many hashes or entries of a kind a tree of `size` leaves has.
fn items(kind: Kind, size: u64) -> u64 {
    match kind {
        Kind::Entries => size,
        Kind::Hashes(level) => size.checked_shr(8 * u32::from(level)).unwrap_or(0),
    }
}

/// The tiles of one kind that are new or wider in a tree of `new` leaves than in one of `old`.
fn grown(kind: Kind, old: u64, new: u64) -> impl Iterator<Item = Tile> {
    let width = u64::from(TILE_WIDTH);
    let (had, has) = (items(kind, old), items(kind, new));
    let range = if had < has { had / width..has.div_ceil(width) } else { 0..0 };
    range.filter_map(move |index| Tile::at(kind, index, has))
}

/// The hash tiles to write when a tree grows from `old` to `new` leaves, level by level. From 0:
/// every hash tile of the tree.
pub fn hash_tiles(old: u64, new: u64) -> impl Iterator<Item = Tile> {
    (0..TILE_LEVELS).flat_map(move |level| grown(Kind::Hashes(level), old, new))
}

/// The entry bundles to write when a tree grows from `old` to `new` leaves.
pub fn entry_tiles(old: u64, new: u64) -> impl Iterator<Item = Tile> {
    grown(Kind::Entries, old, new)
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Hashes(level) => write!(f, "tile/{level}/")?,
            Kind::Entries => f.write_str("tile/entries/")?,
        }
        let mut groups = vec![self.index % 1000];
        let mut rest = self.index / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        for group in groups.iter().skip(1).rev() {
            write!(f, "x{group:03}/")?;
        }
        write!(f, "{:03}", self.index % 1000)?;
        if self.is_full() { Ok(()) } else { write!(f, ".p/{}", self.width) }
    }
}

impl FromStr for Tile {
    type Err = Error;

    fn from_str(path: &str) -> Result<Self, Error> {
        let tile = read_path(path).ok_or(Error::Path)?;
        // Only one spelling of a name is accepted: the one that we print.
        if tile.to_string() == path { Ok(tile) } else { Err(Error::Path) }
    }
}

fn read_path(path: &str) -> Option<Tile> {
    let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
    let kind = match kind {
        "entries" => Kind::Entries,
        level => Kind::Hashes(level.parse().ok()?),
    };
    let (groups, width) = match rest.split_once(".p/") {
        Some((groups, width)) => (groups, width.parse().ok()?),
        None => (rest, TILE_WIDTH),
    };
    let mut index = 0_u64;
    for group in groups.split('/') {
        let digits = group.strip_prefix('x').unwrap_or(group);
        index = index.checked_mul(1000)?.checked_add(digits.parse::<u16>().ok()?.into())?;
    }
    Tile::new(kind, index, width).ok()
}

/// The content of a hash tile: its hashes one after the other.
pub fn encode_hashes(hashes: &[Digest]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// The hashes of a tile that holds `width` of them.
pub fn decode_hashes(content: &[u8], width: u16) -> Result<Vec<Digest>, Error> {
    let (hashes, rest) = content.as_chunks::<32>();
    if !rest.is_empty() || hashes.len() != usize::from(width) {
        return Err(Error::Content);
    }
    Ok(hashes.iter().copied().map(Digest).collect())
}

/// The content of an entry bundle: each entry after its length, 16 bits big-endian.
pub fn encode_entries<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    for entry in entries {
        let length = u16::try_from(entry.len()).map_err(|_| Error::EntryTooLong(entry.len()))?;
        content.extend_from_slice(&length.to_be_bytes());
        content.extend_from_slice(entry);
    }
    Ok(content)
}

/// The entries of a bundle that holds `width` of them.
pub fn decode_entries(mut content: &[u8], width: u16) -> Result<Vec<&[u8]>, Error> {
    let mut entries = Vec::new();
    for _ in 0..width {
        let (length, rest) = content.split_first_chunk().ok_or(Error::Content)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (entry, rest) = rest.split_at_checked(length).ok_or(Error::Content)?;
        entries.push(entry);
        content = rest;
    }
    if content.is_empty() { Ok(entries) } else { Err(Error::Content) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check_path(kind: Kind, index: u64, width: u16, path: &str) {
        let tile = Tile::new(kind, index, width).unwrap();
        assert_eq!(tile.to_string(), path);
        assert_eq!(path.parse(), Ok(tile));
    }

    #[test]
    fn paths() {
        check_path(Kind::Hashes(0), 0, 256, "tile/0/000");
        check_path(Kind::Hashes(7), 1_234_067, 256, "tile/7/x001/x234/067");
        check_path(Kind::Entries, 1000, 1, "tile/entries/x001/000.p/1");
        check_path(
            Kind::Hashes(1),
            u64::MAX,
            255,
            "tile/1/x018/x446/x744/x073/x709/x551/615.p/255",
        );
        for path in [
            "",
            "tile/0/0",
            "tile/00/000",
            "tile/8/000",
            "tile/0/x000/001",
            "tile/0/001/002",
            "tile/0/x001",
            "tile/0/xx01/002",
            "tile/0/1000",
            "tile/0/+01",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p/1/",
            "tile/entries/000.p",
            "tile/0/x018/x446/x744/x073/x709/x551/616",
            "/tile/0/000",
        ] {
            assert_eq!(path.parse::<Tile>(), Err(Error::Path), "{path}");
        }
    }

    #[test]
    fn the_example_of_the_specification() {
        let tiles: Vec<String> = hash_tiles(0, 70_000).map(|tile| tile.to_string()).collect();
        assert_eq!(tiles.len(), 273 + 1 + 1 + 1 + 1);
        assert_eq!(
            tiles[273..],
            ["tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"]
        );
        let tiles: Vec<String> = hash_tiles(0, 256).map(|tile| tile.to_string()).collect();
        assert_eq!(tiles, ["tile/0/000", "tile/1/000.p/1"]);
        assert_eq!(hash_tiles(u64::MAX, u64::MAX).count() + entry_tiles(5, 3).count(), 0);
        assert_eq!(hash_tiles(u64::MAX - 1, u64::MAX).count(), 1);
    }

    #[test]
    fn contents_that_do_not_fit_are_refused() {
        assert_eq!(encode_entries([&vec![0; 65_536][..]]), Err(Error::EntryTooLong(65_536)));
        for content in [&[][..], &[0], &[0, 2, 1], &[0, 0, 0], &[0, 0, 0, 0]] {
            assert_eq!(decode_entries(content, 1), Err(Error::Content));
        }
        assert_eq!(decode_hashes(&[0; 63], 2), Err(Error::Content));
        assert_eq!(decode_hashes(&[0; 64], 1), Err(Error::Content));
    }

    /// Their paths name the height of a tile too, which tlog-tiles fixes at 8.
    fn theirs(tile: tlog_tiles::Tile) -> String {
        tile.path().replacen("tile/8/", "tile/", 1)
    }

    proptest! {
        #[test]
        fn tiles_agree_with_the_oracle(
            old in 0_u64..200_000,
            more in 0_u64..2_000,
            item in any::<u64>(),
        ) {
            let new = old + more;
            let mut expect: Vec<String> =
                tlog_tiles::Tile::new_tiles(8, old, new).into_iter().map(theirs).collect();
            let mut got: Vec<String> = hash_tiles(old, new).map(|tile| tile.to_string()).collect();
            expect.sort();
            got.sort();
            prop_assert_eq!(got, expect);
            if new > 0 {
                let tile = Tile::holding(Kind::Entries, item % new, new).unwrap();
                let all: Vec<Tile> = entry_tiles(0, new).collect();
                prop_assert_eq!(tile, all[usize::try_from(item % new / 256).unwrap()]);
            }
            prop_assert_eq!(Tile::holding(Kind::Hashes(0), new, new), None);
        }

        #[test]
        fn paths_agree_with_the_oracle(
            level in 0_u8..8,
            index in any::<u64>(),
            width in 1_u16..=256,
        ) {
            let tile = Tile::new(Kind::Hashes(level), index, width).unwrap();
            let path = theirs(tlog_tiles::Tile::new(8, level, index, width.into(), false));
            prop_assert_eq!(tile.to_string(), path.clone());
            prop_assert_eq!(path.parse(), Ok(tile));
        }

        #[test]
        fn entries_come_back(
            entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..9),
        ) {
            let content = encode_entries(entries.iter().map(Vec::as_slice)).unwrap();
            let width = u16::try_from(entries.len()).unwrap();
            prop_assert_eq!(decode_entries(&content, width).unwrap(), entries);
        }
    }
}
