package check

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/firnlog/firn/record"
)

// Batches reads the record batches of a partition's folder, in the order of
// its segments. What a segment's end lacks of a batch is an error: the broker
// has to be stopped, and its log to be whole.
type Batches struct {
	files []string
	file  *os.File
	r     *bufio.Reader
	buf   []byte
}

// maxBatch bounds what a damaged length can make Batches allocate.
const maxBatch = 256 << 20

// OpenBatches begins with the first segment of dir.
func OpenBatches(dir string) (*Batches, error) {
	files, err := filepath.Glob(filepath.Join(dir, strings.Repeat("[0-9]", 20)+".log"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: no segment: %w", dir, os.ErrNotExist)
	}
	slices.Sort(files)
	return &Batches{files: files, r: bufio.NewReaderSize(nil, 1<<18)}, nil
}

// Next gives the next batch, which the next call overwrites; io.EOF after the
// last.
func (s *Batches) Next() (record.Batch, error) {
	for {
		if s.file == nil {
			if len(s.files) == 0 {
				return nil, io.EOF
			}
			f, err := os.Open(s.files[0])
			if err != nil {
				return nil, err
			}
			s.file, s.files = f, s.files[1:]
			s.r.Reset(f)
		}
		b, err := s.read()
		if err == nil {
			return b, nil
		}
		if !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s: %w", s.file.Name(), err)
		}
		s.Close()
	}
}

func (s *Batches) read() (record.Batch, error) {
	header, err := s.r.Peek(record.HeaderSize)
	if len(header) == 0 && errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %d bytes after the last batch", record.ErrShort, len(header))
	}
	batch, err := record.ParseHeader(header)
	if err != nil {
		return nil, err
	}
	if batch.Size() > maxBatch {
		return nil, fmt.Errorf("%w: a batch of %d bytes", record.ErrCorrupt, batch.Size())
	}
	s.buf = slices.Grow(s.buf[:0], int(batch.Size()))[:batch.Size()]
	if n, err := io.ReadFull(s.r, s.buf); err != nil {
		return nil, fmt.Errorf("%w: %d of %d bytes of the batch at offset %d", record.ErrShort, n, len(s.buf), batch.BaseOffset())
	}
	if batch, _, err = record.Next(s.buf); err == nil {
		err = batch.CheckCRC()
	}
	return batch, err
}

// Close closes the file that is being read.
func (s *Batches) Close() {
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
}

// Replica is one broker's copy of a partition.
type Replica struct {
	Broker int32
	Dir    string
}

// Compare compares the replicas of a partition byte for byte, from the greatest
// of their first offsets on: all have to have the same batches up to the same
// end. It gives the first difference, as an anomaly, and how many bytes were
// the same in all of them. An error says that a replica cannot be read.
func Compare(partition string, replicas []Replica) (found []Anomaly, same int64, err error) {
	readers := make([]*replicaReader, len(replicas))
	start := record.Offset(0)
	for i, r := range replicas {
		b, err := OpenBatches(r.Dir)
		if err != nil {
			return nil, 0, fmt.Errorf("replica %d of %s: %w", r.Broker, partition, err)
		}
		defer b.Close()
		readers[i] = &replicaReader{Replica: r, batches: b}
		if err := readers[i].next(); err != nil {
			return nil, 0, fmt.Errorf("%s: %w", partition, err)
		}
		if !readers[i].ended {
			start = max(start, readers[i].batch.BaseOffset())
		}
	}
	for _, r := range readers {
		for !r.ended && r.batch.LastOffset() < start {
			if err := r.next(); err != nil {
				return nil, 0, fmt.Errorf("%s: %w", partition, err)
			}
		}
	}
	for len(readers) > 1 {
		first := readers[0]
		for _, r := range readers[1:] {
			if first.ended != r.ended || !bytes.Equal(first.batch, r.batch) {
				what := fmt.Sprintf("replica %d has %s, replica %d has %s", first.Broker, first.at(), r.Broker, r.at())
				return append(found, Anomaly{Kind: Divergence, Time: -1, Where: partition, What: what}), same, nil
			}
		}
		if first.ended {
			return nil, same, nil
		}
		same += first.batch.Size()
		for _, r := range readers {
			if err := r.next(); err != nil {
				return nil, same, fmt.Errorf("%s: %w", partition, err)
			}
		}
	}
	return nil, 0, nil
}

// replicaReader is where the comparison is in one replica.
type replicaReader struct {
	Replica
	batches *Batches
	batch   record.Batch // nil when it has ended
	ended   bool
	end     record.Offset
}

func (r *replicaReader) next() error {
	b, err := r.batches.Next()
	if errors.Is(err, io.EOF) {
		r.batch, r.ended = nil, true
		return nil
	}
	if err != nil {
		return fmt.Errorf("replica %d: %w", r.Broker, err)
	}
	r.batch, r.end = b, b.LastOffset()+1
	return nil
}

func (r *replicaReader) at() string {
	if r.ended {
		return fmt.Sprintf("its end at offset %d", r.end)
	}
	return fmt.Sprintf("offsets %d to %d in %d bytes with checksum %08x of leader epoch %d", r.batch.BaseOffset(), r.batch.LastOffset(), r.batch.Size(), r.batch.CRC(), r.batch.LeaderEpoch())
}

// Sequences checks the sequence numbers of a partition's idempotent producers,
// batch by batch: in one epoch of a producer they begin at 0 and go up by one
// from record to record (KIP-98), so a batch that is there twice, or one that is
// missing, shows. Of a log whose first records are gone (in the object store,
// say) Midway is to be set: a producer's first batch there has any sequence.
type Sequences struct {
	Midway bool
	next   map[session]int32 // what is to come
}

type session struct {
	id    int64
	epoch int16
}

// Next takes the next batch and says what is wrong with it, or nothing.
func (s *Sequences) Next(b record.Batch) string {
	p := session{b.ProducerID(), b.ProducerEpoch()}
	if p.id < 0 || b.IsControl() {
		return ""
	}
	if s.next == nil {
		s.next = map[session]int32{}
	}
	want, known := s.next[p]
	s.next[p] = int32((int64(b.LastSequence()) + 1) & math.MaxInt32)
	if b.BaseSequence() == want || s.Midway && !known {
		return ""
	}
	return fmt.Sprintf("the batch at offset %d has sequence %d of producer %d, epoch %d, and %d was to come", b.BaseOffset(), b.BaseSequence(), p.id, p.epoch, want)
}
