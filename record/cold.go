package record

import (
	"time"

	"github.com/VictoriaMetrics/metrics"
)

const (
	// coldReads is how many reads may wait for disks at a time, in the whole
	// process. Each takes a thread of the system; without a bound, a few hundred
	// readers of old records would take as many.
	coldReads = 16
	// coldStride is how far apart bytes are looked at where the pages in memory
	// cannot be counted; disks are read in pieces of about that size.
	coldStride = 128 << 10
)

// coldTurn has one element for each read that waits for a disk.
var coldTurn = make(chan struct{}, coldReads)

var (
	mColdReads       = metrics.NewCounter(`firn_file_cold_reads_total`)
	mColdBytes       = metrics.NewCounter(`firn_file_cold_bytes_total`)
	mColdSeconds     = metrics.NewFloatCounter(`firn_file_cold_read_seconds_total`)
	mColdQueued      = metrics.NewGauge(`firn_file_cold_reads_queued`, nil)
	mColdWaits       = metrics.NewCounter(`firn_file_cold_read_waits_total`)
	mColdWaitSeconds = metrics.NewFloatCounter(`firn_file_cold_read_wait_seconds_total`)
)

// Cold runs read, which waits for a disk and gives how many bytes it read,
// when it has its turn; false when stop was closed before that.
func Cold(stop <-chan struct{}, read func() int) bool {
	select {
	case coldTurn <- struct{}{}:
	default:
		start := time.Now()
		mColdWaits.Inc()
		mColdQueued.Inc()
		ok := true
		select {
		case coldTurn <- struct{}{}:
		case <-stop:
			ok = false
		}
		mColdQueued.Dec()
		mColdWaitSeconds.Add(time.Since(start).Seconds())
		if !ok {
			return false
		}
	}
	defer func() { <-coldTurn }()
	start := time.Now()
	n := read()
	mColdReads.Inc()
	mColdBytes.Add(max(n, 0))
	mColdSeconds.Add(time.Since(start).Seconds())
	return true
}

// ReadAt follows io.ReaderAt. What the system has in memory is copied at once;
// what has to come from the disk waits for its turn.
func (sf *File) ReadAt(p []byte, off int64) (n int, err error) {
	n, known := readCached(sf.f, p, off)
	switch {
	case n == len(p):
		return n, nil
	case !known:
		return sf.f.ReadAt(p, off)
	}
	return sf.readCold(p, n, off)
}

// readCold is ReadAt from the have-th byte on. It stands alone since its
// closure puts what it uses on the heap.
func (sf *File) readCold(p []byte, have int, off int64) (n int, err error) {
	Cold(nil, func() int {
		n, err = sf.f.ReadAt(p[have:], off+int64(have))
		return n
	})
	return have + n, err
}

// Cached says whether n bytes from off on are in the system's memory, so that
// whoever takes them waits for no disk. It is true, too, where that cannot be
// known.
func (sf *File) Cached(off, n int64) bool { return n <= 0 || isCached(sf.f, off, n) }
