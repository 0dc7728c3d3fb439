package record

import "io"

// SealedFiles is a sealed segment handed from the local log to whoever copies
// it elsewhere. The holder calls Close; until then the bytes stay readable
// even if the log deletes the segment.
type SealedFiles struct {
	Segment
	Data        io.ReaderAt // Bytes long: record batches, nothing else
	OffsetIndex []IndexEntry
	TimeIndex   []TimeEntry
	Producers   []byte       // producer state at End, in the snapshot file's format; empty for none
	Aborted     []AbortedTxn // transactions whose abort marker is in the segment
	Epochs      []EpochStart // leader epochs of the segment's records; the first may start before Base
	Close       func()
}

// TieredEnd is where a partition's part in object storage ends, and what a log
// has to know that begins there.
type TieredEnd struct {
	Start, End Offset // records of [Start, End) are there; Start == End: none
	// Epochs are the leader epochs up to End, ascending, those of which something
	// is known: the last one is that of the record before End. Empty: not known.
	Epochs    []EpochStart
	Producers []byte // producer state at End, as in SealedFiles; nil: not known
	// Missing says why Epochs (but for the last one) and Producers are not known:
	// the object could not be read. nil: they are, or there is nothing.
	Missing error
}

// IndexEntry says at which byte of its segment the batch with base offset
// Offset begins.
type IndexEntry struct {
	Offset   Offset
	Position int64
}

// TimeEntry says that no record before Offset (exclusive of later entries)
// has a timestamp above Timestamp: the greatest timestamp up to and including
// the batch that contains Offset.
type TimeEntry struct {
	Timestamp int64 // milliseconds
	Offset    Offset
}
