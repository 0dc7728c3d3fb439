package commitlog

import "github.com/firnlog/firn/broker/disk"

const (
	kindOffsets   = "OIDX"
	kindTimes     = "TIDX"
	kindTxns      = "TXNS"
	kindProducers = "PROD"
	kindMeta      = "META"
)

// ErrFormat says that a small file is not what its name promises, or damaged.
// Such files are made anew from the segments, where that is possible.
var ErrFormat = disk.ErrFormat
