package tiering

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/firnlog/firn/record"
)

// Entry says where one tiered run is. Entries of a partition are contiguous:
// each begins where the one before ends.
type Entry struct {
	Base         record.Offset `json:"base"`
	End          record.Offset `json:"end"` // exclusive
	MaxTimestamp int64         `json:"maxTimestamp"`
	MaxTSOffset  record.Offset `json:"maxTimestampOffset"`
	Position     int64         `json:"position"` // of the run in the object
	Length       int64         `json:"length"`
	IndexPos     int64         `json:"indexPosition"` // of the run's section
	IndexLen     int32         `json:"indexLength"`
	Epoch        record.Epoch  `json:"epoch"` // leader epoch of the run's last batch
	// AbortedFrom is the least first offset of the transactions aborted in the
	// run, -1 for none. It may be below Base.
	AbortedFrom record.Offset `json:"abortedFrom"`
	Object      ObjectID      `json:"object"`
}

const (
	manifestMagic = "FIRNMANI"
	pointerMagic  = "FIRNTPTR"
	// ManifestVersion and PointerVersion are the versions written.
	ManifestVersion = 1
	PointerVersion  = 1
	maxManifest     = 1 << 30 // bytes uncompressed
	minEntry        = 26      // bytes an encoded entry takes at least
	maxPointer      = 64 << 10
)

// Entries in a row, in manifests and pointers:
//
//	count base { offsets flags Δmaxtimestamp maxoffset object16 position
//	             length indexposition indexlength epoch [base-abortedfrom] }
//
// all variable-length but the object. offsets is End-Base; maxoffset is 0 for
// none, else MaxTSOffset-Base+1; flags bit 0: aborted transactions.
func appendEntries(b []byte, entries []Entry) []byte {
	b = uvar(b, int64(len(entries)))
	if len(entries) == 0 {
		return b
	}
	b = uvar(b, int64(entries[0].Base))
	var ts int64
	for i := range entries {
		e := &entries[i]
		b = uvar(b, int64(e.End-e.Base))
		var flags byte
		if e.AbortedFrom >= 0 {
			flags |= 1
		}
		b = append(b, flags)
		b = svar(b, e.MaxTimestamp-ts)
		ts = e.MaxTimestamp
		if e.MaxTSOffset < 0 {
			b = uvar(b, 0)
		} else {
			b = uvar(b, int64(e.MaxTSOffset-e.Base)+1)
		}
		b = append(b, e.Object[:]...)
		b = uvar(uvar(uvar(uvar(b, e.Position), e.Length), e.IndexPos), int64(e.IndexLen))
		b = svar(b, int64(e.Epoch))
		if flags&1 != 0 {
			b = svar(b, int64(e.Base-e.AbortedFrom))
		}
	}
	return b
}

func (d *dec) entries() []Entry {
	n := d.count(minEntry)
	if n == 0 {
		return nil
	}
	entries := make([]Entry, n)
	next, ts := record.Offset(d.uvar()), int64(0)
	for i := range entries {
		e := &entries[i]
		e.Base, e.End = next, next+record.Offset(d.uvar())
		next = e.End
		flags := d.take(1)
		ts += d.svar()
		e.MaxTimestamp, e.MaxTSOffset = ts, -1
		if o := d.uvar(); o > 0 {
			e.MaxTSOffset = e.Base + record.Offset(o-1)
		}
		e.Object = ObjectID(d.id16())
		e.Position, e.Length, e.IndexPos = d.uvar(), d.uvar(), d.uvar()
		il := d.uvar()
		e.IndexLen, e.Epoch, e.AbortedFrom = int32(il), record.Epoch(d.svar()), -1
		if d.err == nil && flags[0]&1 != 0 {
			e.AbortedFrom = e.Base - record.Offset(d.svar())
		}
		if d.err == nil && (e.Base < 0 || e.End <= e.Base || e.Length < record.HeaderSize || il < 4 || il > maxSection || e.AbortedFrom < -1 || flags[0] > 1 || e.Object.IsZero()) {
			d.fail("entry %d: offsets [%d, %d), %d bytes, index of %d", i, e.Base, e.End, e.Length, il)
		}
		if d.err != nil {
			return nil
		}
	}
	return entries
}

// Manifest is a partition's folded entries: an immutable object under the
// same kind of key as the runs'. The payload is
//
//	cluster topic id16 partition4 generation8 entries
//
// and the object (docs/formats/manifest.md):
//
//	0          8        10      12       16          20
//	┌──────────┬────────┬───────┬────────┬───────────┬──────────────┐
//	│"FIRNMANI"│version │ zero  │payload │payload    │ payload,     │
//	│          │  1   2 │     2 │length 4│crc32c   4 │ zstd         │
//	└──────────┴────────┴───────┴────────┴───────────┴──────────────┘
type Manifest struct {
	Cluster    string             `json:"cluster"`
	Topic      string             `json:"topic"`
	TopicID    record.TopicID     `json:"-"`
	Partition  record.PartitionID `json:"partition"`
	Generation int64              `json:"generation"`
	Entries    []Entry            `json:"entries"`
}

func encodeManifest(m *Manifest) ([]byte, error) {
	p := appendBlob(nil, m.Cluster)
	p = appendBlob(p, m.Topic)
	p = append(p, m.TopicID[:]...)
	p = binary.BigEndian.AppendUint32(p, uint32(m.Partition))
	p = binary.BigEndian.AppendUint64(p, uint64(m.Generation))
	p = appendEntries(p, m.Entries)
	if len(p) > maxManifest {
		return nil, fmt.Errorf("tiering: manifest of %s-%d takes %d bytes", m.Topic, m.Partition, len(p))
	}
	b := appendMagic(nil, manifestMagic, ManifestVersion)
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
	b = binary.BigEndian.AppendUint32(b, record.CRC32C(p))
	return record.Compress(b, record.Zstd, 0, p)
}

// DecodeManifest reads a manifest object. Memory is bounded by what its zstd
// stream really holds. ErrCorrupt when it is not intact.
func DecodeManifest(b []byte) (*Manifest, error) {
	d := &dec{b: b}
	d.magic(manifestMagic, ManifestVersion)
	d.u16()
	n, sum := int64(d.u32()), d.u32()
	if d.err != nil {
		return nil, d.err
	}
	if n > maxManifest || n > int64(len(d.b))<<10 {
		return nil, corruptf("manifest of %d bytes says %d uncompressed", len(b), n)
	}
	p, err := record.Decompress(nil, record.Zstd, d.b, int(n))
	if err != nil {
		return nil, fmt.Errorf("%w: manifest: %w", ErrCorrupt, err)
	}
	if int64(len(p)) != n || record.CRC32C(p) != sum {
		return nil, corruptf("manifest checksum: stored %08x over %d bytes, computed %08x over %d", sum, n, record.CRC32C(p), len(p))
	}
	d = &dec{b: p}
	m := &Manifest{Cluster: d.str(maxName), Topic: d.str(maxName), TopicID: d.id16(), Partition: record.PartitionID(d.u32()), Generation: d.i64(), Entries: d.entries()}
	return m, d.end()
}

// Pointer is a partition's value in the metastore: what is tiered, as the
// manifest's entries and those that came after it.
//
//	0          8        10        14
//	┌──────────┬────────┬─────────┬──────────────────────────────────────┐
//	│"FIRNTPTR"│version │crc32c of│cluster topic id16 partition4 gen8    │
//	│          │  1   2 │the rest4│start8 end8 manifest16 mend8 entries  │
//	└──────────┴────────┴─────────┴──────────────────────────────────────┘
//
// Invariants: Start ≤ End; Tail, where not empty, begins at ManifestEnd if
// there is a manifest and ends at End.
type Pointer struct {
	Cluster     string             `json:"cluster"`
	Topic       string             `json:"topic"`
	TopicID     record.TopicID     `json:"-"`
	Partition   record.PartitionID `json:"partition"`
	Generation  int64              `json:"generation"` // counts commits
	Start       record.Offset      `json:"start"`      // first readable offset; entries wholly below are dead
	End         record.Offset      `json:"end"`        // exclusive
	Manifest    ObjectID           `json:"manifest"`   // zero for none
	ManifestEnd record.Offset      `json:"manifestEnd"`
	Tail        []Entry            `json:"tail"`
}

func encodePointer(p *Pointer) []byte {
	b := appendMagic(nil, pointerMagic, PointerVersion)
	mark := len(b)
	b = append(b, 0, 0, 0, 0)
	b = appendBlob(b, p.Cluster)
	b = appendBlob(b, p.Topic)
	b = append(b, p.TopicID[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(p.Partition))
	for _, v := range []int64{p.Generation, int64(p.Start), int64(p.End)} {
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	b = append(b, p.Manifest[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(p.ManifestEnd))
	b = appendEntries(b, p.Tail)
	sealed(b[mark:])
	return b
}

// DecodePointer reads a pointer. ErrCorrupt when it is not intact.
func DecodePointer(b []byte) (*Pointer, error) {
	d := &dec{b: b}
	d.magic(pointerMagic, PointerVersion)
	if d.err != nil {
		return nil, d.err
	}
	body, err := unseal(d.b, "pointer")
	if err != nil {
		return nil, err
	}
	d = &dec{b: body}
	p := &Pointer{Cluster: d.str(maxName), Topic: d.str(maxName), TopicID: d.id16(), Partition: record.PartitionID(d.u32()), Generation: d.i64()}
	p.Start, p.End = record.Offset(d.i64()), record.Offset(d.i64())
	p.Manifest, p.ManifestEnd = ObjectID(d.id16()), record.Offset(d.i64())
	p.Tail = d.entries()
	if err := d.end(); err != nil {
		return nil, err
	}
	return p, p.valid()
}

func (p *Pointer) valid() error {
	if p.Start < 0 || p.End < p.Start || p.Partition < 0 || p.Generation < 0 {
		return corruptf("pointer to [%d, %d)", p.Start, p.End)
	}
	n := len(p.Tail)
	switch {
	case n > 0 && p.Tail[n-1].End != p.End:
		return corruptf("pointer to [%d, %d) with a tail up to %d", p.Start, p.End, p.Tail[n-1].End)
	case !p.Manifest.IsZero() && n > 0 && p.Tail[0].Base != p.ManifestEnd:
		return corruptf("pointer's tail begins at %d, its manifest ends at %d", p.Tail[0].Base, p.ManifestEnd)
	case !p.Manifest.IsZero() && n == 0 && p.ManifestEnd != p.End:
		return corruptf("pointer to [%d, %d) with a manifest up to %d", p.Start, p.End, p.ManifestEnd)
	case p.Manifest.IsZero() && (n == 0 && p.Start != p.End || n > 0 && p.Tail[0].Base > p.Start):
		return corruptf("pointer to [%d, %d) has no entry for its start", p.Start, p.End)
	}
	return nil
}

// findEntry gives the entry that contains o.
func findEntry(entries []Entry, o record.Offset) (int, bool) {
	return slices.BinarySearchFunc(entries, o, func(e Entry, o record.Offset) int {
		switch {
		case o < e.Base:
			return 1
		case o >= e.End:
			return -1
		}
		return 0
	})
}
