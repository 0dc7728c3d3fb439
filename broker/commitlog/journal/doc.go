// Package journal makes records of many partitions durable with one sync: the
// write-ahead log of a disk. What is acknowledged as being on disk is here
// first; the partitions' segments are written through the page cache and
// follow when they can.
//
// # Files
//
// A journal is a folder:
//
//	00000001.journal, …   files of Config.FileBytes, written with zeroes when
//	                      they are made, and used again and again
//	checkpoint            which of them are needed, and how far each
//	                      partition's segments are durable without them
//
// A file is groups, from its first byte on. A group is everything that was
// made durable by one sync; it begins and ends at a multiple of a block
// (disk.Block) and is never split:
//
//	0       4        8            16         24       28        32           36         52
//	┌───────┬────────┬────────────┬──────────┬────────┬─────────┬────────────┬──────────┬──────────┬─────────┬───────┐
//	│"FJGR" │crc32c 4│generation 8│sequence 8│length 4│records 4│entries at 4│journal 16│payloads …│entries …│padding│
//	└───────┴────────┴────────────┴──────────┴────────┴─────────┴────────────┴──────────┴──────────┴─────────┴───────┘
//	entry, 52 bytes for each record
//	┌────────┬───────────┬───────┬─────────────┬────────────┬──────────┬────────┬────────┐
//	│topic 16│partition 4│epoch 4│base offset 8│end offset 8│position 4│length 4│crc32c 4│
//	└────────┴───────────┴───────┴─────────────┴────────────┴──────────┴────────┴────────┘
//
// All numbers are big-endian. The group's checksum covers the rest of the
// header and then the entries. The journal's identity is random, so that no
// record can be made to look like a group. An entry's covers its
// payload: whole record batches with the offsets they have in the log. A
// position counts from the group's start. Padding is anything. An entry without
// a payload says that the partition's segments are durable up to its offset,
// base and end in one: what is too large to be copied was synced there before
// the group was written. One whose end is below its base says that the log is
// being cut back from base to end: what is older does not count from there on.
//
// The generation of a file is one more than that of the file written before
// it, so that what a file held when it was last used is not taken for what it
// holds now. Sequences count groups, through all files, without a gap.
//
// The checkpoint is a frame of package disk, of kind JCKP; its number is the
// newest generation when it was written:
//
//	┌──────────┬──────────────────────┬──────────────┬──────────────────┬──────────────────────────────────────────┬──────────────────────────┐
//	│journal 16│sequence of next group 8│needed files 4│… generation 8 …│partitions 4 … topic 16, index 4, synced 8│held 4 … topic 16, index 4│
//	└──────────┴──────────────────────┴──────────────┴──────────────────┴──────────────────────────────────────────┴──────────────────────────┘
//
// Needed are the files that it names, and all of later generations. In the
// files that it names, only records of the held partitions count.
//
// # Torn or damaged
//
// A group is written when the one before it is durable. So when a group is
// not whole, and a later one of the same journal is, the first was damaged
// after it had been acknowledged: the journal is not opened, and the error
// says where. When none follows, nobody was told that it is durable, and it
// counts for nothing.
package journal
