package tiering

import (
	"fmt"
	"hash/crc32"
	"io"

	"github.com/firnlog/firn/record"
)

// ObjectDump is an object as `firn log dump` shows it.
type ObjectDump struct {
	Version   int       `json:"version"`
	Key       string    `json:"key"`
	Cluster   string    `json:"cluster"`
	Object    ObjectID  `json:"object"`
	CreatedMs int64     `json:"createdMs"`
	DataBytes int64     `json:"dataBytes"`
	Block     int       `json:"blockBytes"`
	Runs      []RunDump `json:"runs"`
}

// RunDump is one run of an object.
type RunDump struct {
	Topic         string              `json:"topic"`
	TopicID       string              `json:"topicId"`
	Partition     record.PartitionID  `json:"partition"`
	Base          record.Offset       `json:"base"`
	End           record.Offset       `json:"end"`
	MaxTimestamp  int64               `json:"maxTimestamp"`
	MaxTSOffset   record.Offset       `json:"maxTimestampOffset"`
	Position      int64               `json:"position"`
	Length        int64               `json:"length"`
	Batches       int64               `json:"batches"`
	Records       int64               `json:"records"`
	CRC           string              `json:"crc32c"`
	Intact        bool                `json:"intact"` // data and blocks match their checksums
	Damage        string              `json:"damage,omitempty"`
	Blocks        int                 `json:"blocks"`
	Offsets       int                 `json:"offsetIndexEntries"`
	Times         int                 `json:"timeIndexEntries"`
	Epochs        []record.EpochStart `json:"epochs"`
	Aborted       []record.AbortedTxn `json:"aborted"`
	ProducerBytes int                 `json:"producerBytes"`
}

// DumpObject decodes an object of size bytes and checks every run against its
// checksums; a damaged run is told in the result, a damaged footer is an
// error (ErrCorrupt).
func DumpObject(r io.ReaderAt, size int64) (*ObjectDump, error) {
	f, err := ReadFooter(r, size)
	if err != nil {
		return nil, err
	}
	d := &ObjectDump{
		Version: f.Version, Key: ObjectKey(f.Cluster, f.ID), Cluster: f.Cluster, Object: f.ID,
		CreatedMs: f.CreatedMs, DataBytes: f.DataLen, Block: f.Block,
	}
	for _, run := range f.Runs {
		rd := RunDump{
			Topic: run.Topic, TopicID: run.TopicID.String(), Partition: run.Partition, Base: run.Base, End: run.End,
			MaxTimestamp: run.MaxTimestamp, MaxTSOffset: run.MaxTSOffset, Position: run.Position, Length: run.Length,
			Batches: run.Batches, Records: run.Records, CRC: fmt.Sprintf("%08x", run.Sum), Intact: true,
			Blocks: len(run.BlockSums), Offsets: len(run.Offsets), Times: len(run.Times),
			Epochs: run.Epochs, Aborted: run.Aborted, ProducerBytes: len(run.Producers),
		}
		if err := run.check(r); err != nil {
			rd.Intact, rd.Damage = false, err.Error()
		}
		d.Runs = append(d.Runs, rd)
	}
	return d, nil
}

// check compares a run's bytes, and the blocks it touches, with the checksums.
func (r *Run) check(data io.ReaderAt) error {
	buf := make([]byte, min(int64(r.Block), r.DataLen))
	for no := r.firstBlock(); no <= r.lastBlock(); no++ {
		off, n := r.blockRange(no)
		if err := readFull(data, buf[:n], off); err != nil {
			return err
		}
		if got, want := record.CRC32C(buf[:n]), r.BlockSums[no-r.firstBlock()]; got != want {
			return corruptf("block %d at byte %d: stored %08x, computed %08x", no, off, want, got)
		}
	}
	var sum uint32
	for at := int64(0); at < r.Length; {
		p := buf[:min(int64(len(buf)), r.Length-at)]
		if err := readFull(data, p, r.Position+at); err != nil {
			return err
		}
		sum = crc32.Update(sum, castagnoli, p)
		at += int64(len(p))
	}
	if sum != r.Sum {
		return corruptf("run: stored %08x, computed %08x", r.Sum, sum)
	}
	return nil
}

// ManifestDump is a manifest as `firn log dump` shows it.
type ManifestDump struct {
	TopicID string `json:"topicId"`
	*Manifest
}

// DumpManifest decodes a manifest object. ErrCorrupt when it is not intact.
func DumpManifest(r io.ReaderAt, size int64) (*ManifestDump, error) {
	b, err := slurp(r, size, maxManifest)
	if err != nil {
		return nil, err
	}
	m, err := DecodeManifest(b)
	if err != nil {
		return nil, err
	}
	return &ManifestDump{m.TopicID.String(), m}, nil
}

// PointerDump is a pointer as `firn log dump` shows it.
type PointerDump struct {
	TopicID string `json:"topicId"`
	*Pointer
}

// DumpPointer decodes a pointer, from etcd or its copy in the bucket.
// ErrCorrupt when it is not intact.
func DumpPointer(r io.ReaderAt, size int64) (*PointerDump, error) {
	b, err := slurp(r, size, maxPointer)
	if err != nil {
		return nil, err
	}
	p, err := DecodePointer(b)
	if err != nil {
		return nil, err
	}
	return &PointerDump{p.TopicID.String(), p}, nil
}

func slurp(r io.ReaderAt, size, limit int64) ([]byte, error) {
	if size < 0 || size > limit {
		return nil, corruptf("%d bytes, %d are possible", size, limit)
	}
	b := make([]byte, size)
	return b, readFull(r, b, 0)
}

// Kind says which of tiering's formats bytes are: "object", "manifest",
// "pointer", or "" for none. head is the first 8 bytes at least, tail the
// last 8.
func Kind(head, tail []byte) string {
	at := func(b []byte, magic string, off int) bool {
		return len(b) >= off+len(magic) && string(b[off:off+len(magic)]) == magic
	}
	switch {
	case at(head, manifestMagic, 0):
		return "manifest"
	case at(head, pointerMagic, 0):
		return "pointer"
	case len(tail) >= 8 && at(tail, trailerMagic, len(tail)-8):
		return "object"
	}
	return ""
}
