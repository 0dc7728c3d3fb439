package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"sync"

	"golang.org/x/sys/unix"
)

// partition is a file of batches, or a part of the journal, and where each of
// the batches is.
type partition struct {
	file    *os.File
	journal *journal // nil: the file is the partition's own

	mu      sync.Mutex
	end     int64 // offset that the next batch gets
	batches []batch
	waiting map[chan struct{}]struct{} // fetches that wait for the next batch
}

// batch lies at pos of the file. Readers see it once it is in batches, which
// in the shared file is after its sync.
type batch struct {
	base, end int64 // offsets
	pos       int64
	size      int
}

// append writes a batch with its offsets patched in.
func (p *partition) append(b []byte) (base int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var pos int64
	if n := len(p.batches); n > 0 {
		pos = p.batches[n-1].pos + int64(p.batches[n-1].size)
	}
	bt := p.place(b, pos)
	if _, err := p.file.WriteAt(b, bt.pos); err != nil {
		return 0, err
	}
	p.publishLocked(bt)
	return bt.base, nil
}

// appendSynced does the same in the journal; c gets the answer once it is on
// disk.
func (p *partition) appendSynced(b []byte, c *conn, answer func(base int64) []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	bt := p.place(b, p.journal.reserve(len(b)))
	if _, err := p.file.WriteAt(b, bt.pos); err != nil {
		return err
	}
	p.journal.queue(written{p, bt, c, answer(bt.base)})
	return nil
}

func (p *partition) place(b []byte, pos int64) batch {
	be := binary.BigEndian
	bt := batch{base: p.end, pos: pos, size: len(b)}
	p.end += int64(be.Uint32(b[23:])) + 1
	bt.end = p.end
	be.PutUint64(b, uint64(bt.base))
	be.PutUint32(b[12:], 0) // leader epoch
	return bt
}

func (p *partition) publish(b batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.publishLocked(b)
}

func (p *partition) publishLocked(b batch) {
	p.batches = append(p.batches, b)
	for w := range p.waiting {
		select {
		case w <- struct{}{}:
		default: // it is awake already
		}
	}
	clear(p.waiting)
}

// find gives the bytes from offset on that lie in a row, at most limit and at
// least one batch, and the end offset. A fetch that finds none is woken by
// what comes next.
func (p *partition) find(offset int64, limit int, wake chan struct{}) (pos int64, size int, end int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := sort.Search(len(p.batches), func(i int) bool { return p.batches[i].end > offset })
	if n := len(p.batches); n > 0 {
		end = p.batches[n-1].end
	}
	if i == len(p.batches) {
		p.waiting[wake] = struct{}{}
		return 0, 0, end
	}
	pos, size = p.batches[i].pos, p.batches[i].size
	limit = max(limit, size)
	for i++; i < len(p.batches) && size < limit && p.batches[i].pos == pos+int64(size); i++ {
		size += p.batches[i].size
	}
	return pos, min(size, limit), end
}

// journal is the file that all synced partitions share. A goroutine syncs what
// was written while it synced before.
type journal struct {
	kick chan struct{}

	mu    sync.Mutex
	file  *os.File
	at    int64
	ready []written
}

type written struct {
	p      *partition
	batch  batch
	c      *conn
	answer []byte
}

// open makes the file when it is not there.
func (j *journal) open(dir string) (*os.File, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file != nil {
		return j.file, nil
	}
	f, err := os.Create(filepath.Join(dir, "journal"))
	if err != nil {
		return nil, err
	}
	j.file = f
	go j.sync(f)
	return f, nil
}

// reserve gives n bytes at the file's end.
func (j *journal) reserve(n int) int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	pos := j.at
	j.at += int64(n)
	return pos
}

func (j *journal) queue(w written) {
	j.mu.Lock()
	j.ready = append(j.ready, w)
	j.mu.Unlock()
	select {
	case j.kick <- struct{}{}:
	default:
	}
}

func (j *journal) sync(f *os.File) {
	var group []written
	for range j.kick {
		j.mu.Lock()
		group, j.ready = j.ready, group[:0]
		j.mu.Unlock()
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			fmt.Fprintln(os.Stderr, "ideal: sync:", err)
			os.Exit(1)
		}
		for _, w := range group {
			w.p.publish(w.batch)
			select {
			case w.c.synced <- w.answer:
			case <-w.c.done:
			}
		}
		clear(group)
	}
}

// newPartitions makes the files of a topic.
func (s *server) newPartitions(topic string, n int, synced bool) ([]*partition, error) {
	ps := make([]*partition, n)
	for i := range ps {
		ps[i] = &partition{waiting: map[chan struct{}]struct{}{}}
		var err error
		if synced {
			ps[i].journal = s.journal
			ps[i].file, err = s.journal.open(s.dir)
		} else {
			ps[i].file, err = os.Create(filepath.Join(s.dir, fmt.Sprintf("%s-%d", topic, i)))
		}
		if err != nil {
			return nil, err
		}
	}
	return ps, nil
}
