package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// read is what a response says about one partition.
type read struct {
	index int32
	p     *partition
	from  int64 // offset
	limit int
	pos   int64
	size  int
	end   int64
}

// fetch handles a Fetch request, version 11, of one topic without a session.
func (c *conn) fetch(r *reader, correlation int32) error {
	r.int32() // replica
	wait := time.Duration(r.int32()) * time.Millisecond
	r.int32() // min bytes: one
	most := int(r.int32())
	r.bytes(1 + 4 + 4) // isolation, session
	if n := r.int32(); n != 1 {
		return fmt.Errorf("a Fetch request of %d topics; blast sends one", n)
	}
	topic := r.string()
	c.s.mu.RLock()
	partitions := c.s.topics[string(topic)]
	c.s.mu.RUnlock()
	c.reads = c.reads[:0]
	for range r.int32() {
		index := r.int32()
		r.int32() // leader epoch
		from := r.int64()
		r.int64() // log start
		c.reads = append(c.reads, read{index: index, p: partitions[index], from: from, limit: int(r.int32())})
	}
	if c.find(most) == 0 && wait > 0 {
		timer := time.NewTimer(wait)
		for found := 0; found == 0; found = c.find(most) {
			select {
			case <-c.wake:
				continue
			case <-timer.C:
			}
			break
		}
		timer.Stop()
	}
	return c.sendFetch(correlation, topic)
}

// find looks for at most so many bytes for c.reads and gives how many there are.
func (c *conn) find(most int) (total int) {
	for i := range c.reads {
		r := &c.reads[i]
		r.size = 0
		if total < most {
			r.pos, r.size, r.end = r.p.find(r.from, min(r.limit, most-total), c.wake)
			total += r.size
		}
	}
	return total
}

func (c *conn) sendFetch(correlation int32, topic []byte) error {
	be := binary.BigEndian
	const perPartition = 4 + 2 + 3*8 + 4 + 4 + 4
	size := 4 + 4 + 2 + 4 + 4 + 2 + len(topic) + 4 + perPartition*len(c.reads)
	for _, r := range c.reads {
		size += r.size
	}
	b := be.AppendUint32(c.out[:0], uint32(size))
	b = be.AppendUint32(b, uint32(correlation))
	b = be.AppendUint32(b, 0) // not throttled
	b = be.AppendUint16(b, 0)
	b = be.AppendUint32(b, 0) // no session
	b = be.AppendUint32(b, 1)
	b = be.AppendUint16(b, uint16(len(topic)))
	b = append(b, topic...)
	b = be.AppendUint32(b, uint32(len(c.reads)))
	for _, r := range c.reads {
		b = be.AppendUint32(b, uint32(r.index))
		b = be.AppendUint16(b, 0)
		b = be.AppendUint64(b, uint64(r.end)) // high watermark
		b = be.AppendUint64(b, uint64(r.end)) // last stable offset
		b = be.AppendUint64(b, 0)             // log start
		b = be.AppendUint32(b, 0xffffffff)    // no aborted transactions
		b = be.AppendUint32(b, 0xffffffff)    // no preferred replica
		b = be.AppendUint32(b, uint32(r.size))
		if r.size == 0 {
			continue
		}
		if err := c.sendMore(b); err != nil {
			return err
		}
		b = b[:0]
		if err := c.sendFile(r.p.file, r.pos, r.size); err != nil {
			return err
		}
	}
	c.out = b
	if len(b) == 0 {
		return nil
	}
	_, err := c.Write(b)
	return err
}

// sendMore sends b so that it goes out together with what follows.
func (c *conn) sendMore(b []byte) error {
	var sendErr error
	err := c.raw.Write(func(fd uintptr) bool {
		var n int
		n, sendErr = unix.SendmsgN(int(fd), b, nil, nil, unix.MSG_MORE)
		if sendErr == nil {
			b = b[n:]
		}
		return len(b) == 0 || !again(sendErr)
	})
	return errors.Join(err, sendErr)
}

func again(err error) bool {
	return err == nil || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)
}

// step is the most that one sendfile moves, so that no call holds the
// connection's thread for long.
const step = 1 << 20

func (c *conn) sendFile(f *os.File, pos int64, size int) error {
	if c.s.copy {
		if c.buf == nil {
			c.buf = make([]byte, 256<<10)
		}
		for size > 0 {
			n, err := f.ReadAt(c.buf[:min(size, len(c.buf))], pos)
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if _, err := c.Write(c.buf[:n]); err != nil {
				return err
			}
			pos, size = pos+int64(n), size-n
		}
		return nil
	}
	in := int(f.Fd())
	var sendErr error
	err := c.raw.Write(func(fd uintptr) bool {
		for size > 0 {
			var n int
			n, sendErr = unix.Sendfile(int(fd), in, &pos, min(size, step))
			if sendErr != nil {
				return !again(sendErr)
			}
			if n == 0 {
				sendErr = io.ErrUnexpectedEOF
				return true
			}
			size -= n
		}
		return true
	})
	if size == 0 {
		return err
	}
	return errors.Join(err, sendErr)
}
