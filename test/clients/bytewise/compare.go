package bytewise

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Where the fields of a record batch are (magic 2).
const (
	atBaseOffset  = 0
	atLength      = 8
	atEpoch       = 12
	atMagic       = 16
	atCRC         = 17
	atAttributes  = 21
	atLastDelta   = 23
	atMaxTime     = 35
	atProducerID  = 43
	headerSize    = 61
	codecBits     = 7
	appendTimeBit = 8
)

// Seen is what a producer was seen to use, for the test to say whether that
// is what it meant to try.
type Seen struct {
	Batches    int
	Versions   []int16 // of Produce, ascending
	Codecs     []int   // ascending; 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd
	Idempotent bool    // every batch has a producer id
}

// Batch is what a Produce request carried for one partition.
type Batch struct {
	Version int16 // of the request
	Acks    int16
	Bytes   []byte
}

// CheckTap compares what came through the Tap for a topic with what the
// broker has of it.
func (b *Broker) CheckTap(t testing.TB, topic string, appendTime bool, since time.Time) Seen {
	t.Helper()
	frames, err := b.Tap.Take()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := b.meta(t, topic)
	var sent []Batch
	for _, f := range frames {
		req, err := ParseProduce(f)
		if err != nil {
			t.Fatal(err)
		}
		sent = append(sent, batchesOf(req, func(rt *kmsg.ProduceRequestTopic) bool { return rt.Topic == topic || rt.TopicID == id })...)
	}
	return b.Check(t, topic, sent, appendTime, since)
}

// Check compares batches that were produced, in this order, with what Fetch
// gives of partition 0 and with the segment on disk. Base offset and leader
// epoch must be the broker's; with appendTime the maximum timestamp, the
// attribute that says so, and hence the checksum are too. Every other byte
// must be the producer's.
func (b *Broker) Check(t testing.TB, topic string, sent []Batch, appendTime bool, since time.Time) Seen {
	t.Helper()
	_, epoch := b.meta(t, topic)
	served := b.fetchAll(t, topic)
	seen := Seen{Idempotent: true}
	rest, offset, err := served, int64(0), error(nil)
	for _, batch := range sent {
		want := batch.Bytes
		where := fmt.Sprintf("topic %s, batch %d at offset %d (Produce version %d)", topic, seen.Batches, offset, batch.Version)
		if len(want) < headerSize || len(rest) < len(want) {
			t.Fatalf("%s: %d bytes were sent, the log has %d more", where, len(want), len(rest))
		}
		if offset, err = compareBatch(want, rest[:len(want)], offset, epoch, appendTime, since); err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		rest = rest[len(want):]
		seen.add(batch.Version, want)
	}
	if len(rest) > 0 {
		t.Fatalf("topic %s: the log has %d bytes more than was sent", topic, len(rest))
	}
	if seen.Batches == 0 {
		t.Fatalf("topic %s: no batch was sent", topic)
	}
	b.checkDisk(t, topic, served)
	slices.Sort(seen.Versions)
	slices.Sort(seen.Codecs)
	return seen
}

func (s *Seen) add(version int16, batch []byte) {
	s.Batches++
	if !slices.Contains(s.Versions, version) {
		s.Versions = append(s.Versions, version)
	}
	if codec := int(batch[atAttributes+1] & codecBits); !slices.Contains(s.Codecs, codec) {
		s.Codecs = append(s.Codecs, codec)
	}
	s.Idempotent = s.Idempotent && int64(binary.BigEndian.Uint64(batch[atProducerID:])) >= 0
}

// compareBatch gives the offset behind the batch, or says which byte is not
// as it must be.
func compareBatch(sent, got []byte, offset int64, epoch int32, appendTime bool, since time.Time) (int64, error) {
	if sent[atMagic] != 2 || 12+int(binary.BigEndian.Uint32(sent[atLength:])) != len(sent) {
		return 0, errors.New("what was sent is not one batch of the present format")
	}
	want := bytes.Clone(sent)
	binary.BigEndian.PutUint64(want[atBaseOffset:], uint64(offset))
	binary.BigEndian.PutUint32(want[atEpoch:], uint32(epoch))
	if appendTime {
		stamp := int64(binary.BigEndian.Uint64(got[atMaxTime:]))
		if at := time.UnixMilli(stamp); at.Before(since.Truncate(time.Millisecond)) || at.After(time.Now()) {
			return 0, fmt.Errorf("the append time %v is not within the test", at)
		}
		want[atAttributes+1] |= appendTimeBit
		binary.BigEndian.PutUint64(want[atMaxTime:], uint64(stamp))
		binary.BigEndian.PutUint32(want[atCRC:], crc32.Checksum(want[atAttributes:], crc32.MakeTable(crc32.Castagnoli)))
	}
	for i := range want {
		if want[i] != got[i] {
			return 0, fmt.Errorf("byte %d of %d is %#02x, want %#02x\nhave %x\nwant %x", i, len(want), got[i], want[i], got[:headerSize], want[:headerSize])
		}
	}
	return offset + int64(binary.BigEndian.Uint32(sent[atLastDelta:])) + 1, nil
}

// batchesOf gives what a request carries for the partitions 0 of the topics
// that of accepts; nil accepts all.
func batchesOf(req *kmsg.ProduceRequest, of func(*kmsg.ProduceRequestTopic) bool) (all []Batch) {
	for i := range req.Topics {
		if of != nil && !of(&req.Topics[i]) {
			continue
		}
		for _, p := range req.Topics[i].Partitions {
			if p.Partition == 0 {
				all = append(all, Batch{req.Version, req.Acks, p.Records})
			}
		}
	}
	return all
}

// fetchAll gives all bytes of partition 0 as Fetch serves them.
func (b *Broker) fetchAll(t testing.TB, topic string) []byte {
	t.Helper()
	var all []byte
	for next := int64(0); ; {
		req := kmsg.NewPtrFetchRequest()
		req.Version, req.MaxBytes, req.SessionEpoch = 12, 8<<20, -1
		rt := kmsg.NewFetchRequestTopic()
		rt.Topic = topic
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch, rp.LastFetchedEpoch = next, 8<<20, -1, -1
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		resp := b.Ask(t, req).(*kmsg.FetchResponse)
		if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
			t.Fatalf("fetch of %s: %+v", topic, resp)
		}
		p := resp.Topics[0].Partitions[0]
		if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
			t.Fatalf("fetch of %s: %v", topic, err)
		}
		if len(p.RecordBatches) == 0 {
			if next != p.HighWatermark {
				t.Fatalf("fetch of %s gives nothing at %d, below the high watermark %d", topic, next, p.HighWatermark)
			}
			return all
		}
		for rest := p.RecordBatches; len(rest) >= headerSize; {
			n := 12 + int(binary.BigEndian.Uint32(rest[atLength:]))
			if n > len(rest) {
				break // cut at the end: the next fetch begins with it
			}
			all = append(all, rest[:n]...)
			next = int64(binary.BigEndian.Uint64(rest)) + int64(binary.BigEndian.Uint32(rest[atLastDelta:])) + 1
			rest = rest[n:]
		}
	}
}

// checkDisk compares the segments of partition 0 with what was served, and
// lets firn's own command look for damage in them.
func (b *Broker) checkDisk(t testing.TB, topic string, served []byte) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(b.data, "logs", topic, "0-*", "*.log"))
	if err != nil || len(files) == 0 {
		t.Fatalf("topic %s has no segment on disk (%v)", topic, err)
	}
	slices.Sort(files)
	var disk []byte
	for _, f := range files {
		part, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		disk = append(disk, part...)
	}
	if !bytes.Equal(disk, served) {
		t.Fatalf("topic %s: the %d bytes on disk are not the %d bytes that were served", topic, len(disk), len(served))
	}
	if out, err := exec.Command(b.bin, append([]string{"log", "dump"}, files...)...).CombinedOutput(); err != nil {
		t.Fatalf("firn log dump: %v\n%s", err, out)
	}
}
