//! Named limits: every queue, message, batch and retry has one here.
//!
//! Each is a plain number with its unit in its name and the reason beside it.

/// Bytes of a path below a mount. Longer than PATH_MAX (4,096), because trees made with relative
/// calls may be deeper; bounded, because a peer sends paths.
pub const PATH_BYTES_MAX: usize = 32 << 10;

/// Bytes of one name: what Linux file systems accept.
pub const NAME_BYTES_MAX: usize = 255;

/// Bytes of a symbolic link's target: PATH_MAX, which Linux enforces.
pub const SYMLINK_BYTES_MAX: usize = 4096;

/// Extended attributes of one entry, in bytes of names and values together: what one ext4 inode
/// and its block hold, with room for xfs.
pub const XATTR_BYTES_MAX: usize = 256 << 10;

/// Highest sequence, and highest counter of a stamp, that is believed: what SQLite's integers hold.
/// As nanoseconds since 1970 it is the year 2262.
pub const NUMBER_MAX: u64 = i64::MAX as u64;

/// Counters of stamps from here on, the year 2200, do not set the clock: somebody made them up, and
/// stamps made after them would soon be beyond [`NUMBER_MAX`].
pub const CLOCK_NS_MAX: u64 = 7_258_118_400 * 1_000_000_000;

/// Nodes in a cluster; sizes version vectors that come from outside.
pub const NODES_MAX: usize = 64;

/// Content up to this many bytes travels inside its announcement.
pub const INLINE_BYTES_MAX: u64 = 64 << 10;

/// Bytes of one frame on the wire, length prefix excluded.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// Bytes of inline content in one announcement message.
pub const ANNOUNCE_BYTES_MAX: usize = 2 << 20;

/// Records in one announcement message.
pub const ANNOUNCE_RECORDS_MAX: usize = 1024;

/// Records of one peer that are decided for and not applied yet, per mount; a long one counts as
/// several. Beyond it the peer's bulk lanes are not read, and beyond as many again nothing of it. As
/// many may wait for something else: what is beyond that is asked for again later. Each takes some
/// 4 KiB.
pub const SHARE_MAX: usize = 16_384;

/// Paths the engine remembers as changed, per mount, before it asks for a scan instead.
pub const DIRTY_MAX: usize = 65_536;

/// Reads handed out at a time, per mount.
pub const READS_IN_FLIGHT_MAX: usize = 512;

/// Contents fetched at a time, per mount.
pub const FETCHES_IN_FLIGHT_MAX: usize = 32;

/// Applies in one group: one durability point.
pub const APPLY_GROUP_MAX: usize = 1024;

/// Bytes of inline content kept in memory for records that cannot be applied yet, per mount.
pub const SHELF_BYTES_MAX: usize = 64 << 20;

/// Bytes read or sent at a time of a large file.
pub const CONTENT_BUFFER_BYTES: usize = 256 << 10;

/// Content from this many bytes on is compared by pieces with what is at its path before it is
/// fetched: below it the extra round trip costs more than the bytes.
pub const DELTA_BYTES_MIN: u64 = 4 << 20;

/// Content up to this many bytes is: twenty bytes are kept for some 128 KiB of it.
pub const DELTA_BYTES_MAX: u64 = 64 << 30;

/// Ranges of a content in one request.
pub const RANGES_MAX: usize = 64 << 10;

/// Held deletions remembered per mount; more are found again by listing it.
pub const HELD_MAX: usize = 16_384;

/// Problems listed per mount; more are counted only.
pub const PROBLEMS_MAX: usize = 1000;

/// Bytes of contents that a mount of snapshots keeps decoded: some files being read at a time, of which
/// the kernel asks for 128 KiB at a time.
pub const BROWSE_DATA_BYTES_MAX: usize = 32 << 20;

/// Bytes of directories that it keeps decoded, and as many of their indexes: some 50,000 entries, so that what
/// is listed is not decoded again for each entry that is then looked at.
pub const BROWSE_DIRS_BYTES_MAX: usize = 16 << 20;

/// Bytes that it keeps of which pieces large files consist of: of 50 GiB of them.
pub const BROWSE_PIECES_BYTES_MAX: usize = 16 << 20;
