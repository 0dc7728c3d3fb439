package bytewise

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"
	"time"
)

// TestCompareBatch changes each byte in turn: the comparison must notice it.
func TestCompareBatch(t *testing.T) {
	crc := func(b []byte) {
		binary.BigEndian.PutUint32(b[atCRC:], crc32.Checksum(b[atAttributes:], crc32.MakeTable(crc32.Castagnoli)))
	}
	sent := bytes.Repeat([]byte{7}, headerSize+20)
	binary.BigEndian.PutUint32(sent[atLength:], uint32(len(sent)-12))
	sent[atMagic], sent[atAttributes], sent[atAttributes+1] = 2, 0, 4
	binary.BigEndian.PutUint32(sent[atLastDelta:], 9)
	crc(sent)
	since := time.Now().Add(-time.Second)
	for _, appendTime := range []bool{false, true} {
		got := bytes.Clone(sent)
		binary.BigEndian.PutUint64(got, 100)
		binary.BigEndian.PutUint32(got[atEpoch:], 3)
		if appendTime {
			got[atAttributes+1] |= appendTimeBit
			binary.BigEndian.PutUint64(got[atMaxTime:], uint64(time.Now().UnixMilli()))
			crc(got)
		}
		if next, err := compareBatch(sent, got, 100, 3, appendTime, since); err != nil || next != 110 {
			t.Fatalf("append time %v: next offset %d, %v", appendTime, next, err)
		}
		if _, err := compareBatch(sent, got, 100, 3, !appendTime, since); err == nil {
			t.Error("the other kind of timestamps is not noticed")
		}
		var unnoticed []int
		for i := range got {
			got[i] ^= 0x80
			if _, err := compareBatch(sent, got, 100, 3, appendTime, since); err == nil {
				unnoticed = append(unnoticed, i)
			}
			got[i] ^= 0x80
		}
		if len(unnoticed) > 0 {
			t.Errorf("append time %v: changes of bytes %v are not noticed", appendTime, unnoticed)
		}
	}
}
