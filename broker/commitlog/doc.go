// Package commitlog is one partition's folder: segments of record batches and
// the small files beside them. It appends, reads, rolls, recovers and deletes;
// what a batch must look like, who may read how far and when data expires is
// the partition's business.
//
//	<partition>/
//	  00000000000000000000.log        record batches, byte for byte
//	  00000000000000000000.index      offset → position, written when sealed
//	  00000000000000000000.timeindex  time → offset, and the segment's summary
//	  00000000000000000000.txnindex   aborted transactions; absent when none
//	  00000000000000000000.snapshot   producer state before this offset
//	  leader-epoch-checkpoint         which epoch began where
//	  partition.meta                  topic id, log start, recovery point
//
// # Limits
//
// A segment holds at most 2^31-1 bytes and 2^31-1 offsets. An index holds at
// most 32,768 entries: when it is full every second entry goes and the
// interval doubles, so an index never forces a roll and the memory of an
// active segment is bounded (about 0.8 MiB). One goroutine at a time may call
// the writing methods (Append, AppendReplicated, Truncate, StartAt, Roll,
// RollIfOld, Active, SetLogStart, DropOldest, DropDamaged, AssignEpoch, Close,
// Remove, everything of Producers); reading methods and Sync may be called by anyone at any time
// and never wait for a writer. Compact runs beside all of them, one at a time:
// while it puts a segment in the place of others, and only then, DropOldest
// does nothing, and what else deletes waits.
//
// # What is assumed of the disk
//
// Bytes that were written stay written while the machine is up, whatever
// happens to this process. After a power loss, bytes that were fsynced before
// it are there; others may be there in any part, or be zeroes. A rename
// within the folder is atomic, and durable once the folder was fsynced.
// Single bits may flip: every batch and every file of ours has a CRC-32C, and
// base offset and leader epoch, which a batch's checksum leaves out, follow
// from the batch before and from leader-epoch-checkpoint.
//
// # Order of writing
//
// A batch is one pwrite at the end of the active segment. Indexes and producer
// state of the active segment are in memory only: a crash costs one scan of
// that segment anyway. When a segment is sealed its small files are written
// (to a .tmp name, fsynced, renamed), the segment and the folder are fsynced,
// and only then does partition.meta move the recovery point past it. This
// work is done by a goroutine that lives only while there is something to
// seal, so that a roll does not stop the producers.
//
// # Crashes
//
//   - In the middle of a pwrite: the tail is torn. Bytes after the last whole
//     batch are cut off, if nothing valid follows them.
//   - Between roll and recovery point: segments beyond the recovery point are
//     scanned with CRC, and their small files are made anew.
//   - Between tmp file and rename: .tmp files are removed at open.
//   - During a clean close: the clean mark is the last thing written; without
//     it the active segment is scanned.
//   - During Truncate: the log is as it was, or less of its tail; see there.
//   - During StartAt: partition.meta says that nothing counts any more, and
//     where the log begins; the folder is emptied at open.
//
// A batch that does not check out while a valid one follows it, or that lies
// below the recovery point, is not a torn tail: Open refuses with a
// *CorruptError that names file and position, for acknowledged records would
// be lost otherwise.
//
// A full disk (ENOSPC, EDQUOT) refuses the append with ErrFull after the part
// that was written has been cut off again; the log stays usable. Any other
// failed write, and every failed fsync, fails the log for good: what the page
// cache holds afterwards is not known.
//
// # Damage
//
// A properly closed log is opened without reading its segments. Bytes that
// this process neither wrote nor scanned are checked when they are first
// asked for, and once only: offsets, epochs and checksums of the whole
// batches from the nearest index entry to the end of what is read. Reads get
// everything before a damaged batch; that batch, and what follows it up to
// the next index entry beyond it, is a *CorruptError. Searches by time check
// likewise. What flips in the page cache, or on disk after it was checked, is
// not seen before the next start; OpenSealed, which is how a segment gets
// copied, always checks all of it.
package commitlog
