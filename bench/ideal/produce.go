package main

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// produce handles a Produce request, version 8, of one partition.
func (c *conn) produce(r *reader, correlation int32) error {
	r.string() // transactional id
	r.int16()  // acks
	r.int32()  // timeout
	if n := r.int32(); n != 1 {
		return fmt.Errorf("a Produce request of %d topics; blast sends one", n)
	}
	topic := r.string()
	if n := r.int32(); n != 1 {
		return fmt.Errorf("a Produce request of %d partitions; blast sends one", n)
	}
	index := r.int32()
	batch := r.bytes(int(r.int32()))
	c.s.mu.RLock()
	p := c.s.topics[string(topic)][index]
	c.s.mu.RUnlock()
	if got, want := crc32.Checksum(batch[21:], castagnoli), binary.BigEndian.Uint32(batch[17:]); got != want {
		return fmt.Errorf("topic %s: checksum %08x, want %08x", topic, got, want)
	}
	if p.journal == nil {
		base, err := p.append(batch)
		if err != nil {
			return err
		}
		c.out = appendProduced(c.out[:0], correlation, topic, index, base)
		return c.respond(c.out)
	}
	if c.synced == nil {
		c.synced = make(chan []byte, 1024)
		go c.answer()
	}
	return p.appendSynced(batch, c, func(base int64) []byte {
		b := appendProduced(nil, correlation, topic, index, base)
		binary.BigEndian.PutUint32(b, uint32(len(b)-4))
		return b
	})
}

func appendProduced(b []byte, correlation int32, topic []byte, index int32, base int64) []byte {
	be := binary.BigEndian
	b = be.AppendUint32(b, 0)
	b = be.AppendUint32(b, uint32(correlation))
	b = be.AppendUint32(b, 1)
	b = be.AppendUint16(b, uint16(len(topic)))
	b = append(b, topic...)
	b = be.AppendUint32(b, 1)
	b = be.AppendUint32(b, uint32(index))
	b = be.AppendUint16(b, 0)
	b = be.AppendUint64(b, uint64(base))
	b = be.AppendUint64(b, ^uint64(0)) // no append time
	b = be.AppendUint64(b, 0)          // log start
	b = be.AppendUint32(b, 0)          // no record errors
	b = be.AppendUint16(b, 0xffff)     // nor a message
	return be.AppendUint32(b, 0)       // not throttled
}

// answer sends what comes from the journal, together what came together.
func (c *conn) answer() {
	var out []byte
	for {
		select {
		case b := <-c.synced:
			out = append(out[:0], b...)
		case <-c.done:
			return
		}
		for n := len(c.synced); n > 0; n-- {
			out = append(out, <-c.synced...)
		}
		if _, err := c.Write(out); err != nil {
			c.Close() // which ends the reader, and that done
		}
	}
}
