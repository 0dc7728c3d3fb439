package cache

import (
	"cmp"
	"container/list"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/firnlog/firn/broker/disk"
	"github.com/firnlog/firn/record"
)

// File names: <2 hex>/<32 hex of the chunk's id>-<number>.chunk.
const chunkExt = ".chunk"

var (
	hits       = metrics.GetOrCreateCounter("firn_cache_hits_total")
	misses     = metrics.GetOrCreateCounter("firn_cache_misses_total")
	shared     = metrics.GetOrCreateCounter("firn_cache_shared_fills_total")
	failures   = metrics.GetOrCreateCounter("firn_cache_fill_failures_total")
	evictions  = metrics.GetOrCreateCounter("firn_cache_evictions_total")
	dropped    = metrics.GetOrCreateCounter("firn_cache_corrupt_chunks_total")
	diskErrors = metrics.GetOrCreateCounter("firn_cache_disk_errors_total")
	gaugeBytes = metrics.GetOrCreateGauge("firn_cache_bytes", nil)
)

type foundChunk struct {
	entry *entry
	seq   uint64
	mtime time.Time
}

// rescan makes the folder if need be and enters the chunks found, oldest
// first. It looks at names and sizes only; contents, which a crash may have cut
// short, are checked when a chunk is first asked for.
func (c *Cache) rescan() error {
	if err := os.MkdirAll(c.cfg.Dir, 0o755); err != nil {
		return err
	}
	dirs, err := os.ReadDir(c.cfg.Dir)
	if err != nil {
		return err
	}
	var found []foundChunk
	for _, d := range dirs {
		if !d.IsDir() || len(d.Name()) != 2 {
			continue
		}
		sub := filepath.Join(c.cfg.Dir, d.Name())
		files, err := os.ReadDir(sub)
		if err != nil {
			return err
		}
		for _, de := range files {
			if fc, ok := c.recognise(sub, de); ok {
				found = append(found, fc)
			}
		}
	}
	slices.SortFunc(found, func(a, b foundChunk) int {
		return cmp.Or(a.mtime.Compare(b.mtime), cmp.Compare(a.seq, b.seq))
	})
	for _, fc := range found {
		c.seq.Store(max(c.seq.Load(), fc.seq))
		victims, files := c.makeRoom(fc.entry.size)
		removeFiles(victims, files)
		if old := c.entries[fc.entry.id]; old != nil {
			c.drop(old)
		}
		c.entries[fc.entry.id] = fc.entry
		c.policy.add(fc.entry, true)
		gaugeBytes.Add(float64(fc.entry.size))
	}
	return nil
}

// recognise gives the entry of a chunk file; impossible ones are removed,
// foreign ones left alone.
func (c *Cache) recognise(dir string, de os.DirEntry) (foundChunk, bool) {
	name, path := de.Name(), filepath.Join(dir, de.Name())
	base, isChunk := strings.CutSuffix(name, chunkExt)
	hexID, num, _ := strings.Cut(base, "-")
	raw, err := hex.DecodeString(hexID)
	seq, err2 := strconv.ParseUint(num, 10, 63)
	if !isChunk || err != nil || err2 != nil || len(raw) != len(id{}) {
		return foundChunk{}, false
	}
	info, err := de.Info()
	if err != nil {
		return foundChunk{}, false
	}
	if size := info.Size(); size <= HeaderSize || size%disk.Block != 0 || size > c.cfg.MaxBytes || size > int64(fileSize(maxChunk)) {
		os.Remove(path)
		return foundChunk{}, false
	}
	return foundChunk{entry: &entry{id: id(raw), path: path, size: info.Size()}, seq: seq, mtime: info.ModTime()}, true
}

// openFiles bounds how many chunk files are open without a reader: the one
// not used for longest is closed first. Not safe for concurrent use.
type openFiles struct {
	max   int
	order *list.List // of *entry, last used in front
}

type openSlot = list.Element

func newOpenFiles(max int) openFiles { return openFiles{max: max, order: list.New()} }

func (o *openFiles) use(s *openSlot) { o.order.MoveToFront(s) }

// add enters e, whose file is set, and returns a file to release, if any.
func (o *openFiles) add(e *entry) (closing *record.File) {
	e.slot = o.order.PushFront(e)
	if o.order.Len() <= o.max {
		return nil
	}
	last := o.order.Back().Value.(*entry)
	o.remove(last)
	closing, last.file = last.file, nil
	return closing
}

func (o *openFiles) remove(e *entry) {
	if e.slot != nil {
		o.order.Remove(e.slot)
		e.slot = nil
	}
}
