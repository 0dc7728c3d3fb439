package commitlog

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/firnlog/firn/record"
)

func BenchmarkAppend(b *testing.B) {
	for name, records := range map[string]int{"16KiB": 15, "1MiB": 1000} {
		b.Run(name, func(b *testing.B) {
			l := openLog(b, b.TempDir(), Config{}, Deps{})
			defer l.Remove()
			batch := batchAt(0, records, 1024, record.None)
			entries := []Entry{{Batch: batch}}
			b.SetBytes(int64(len(batch)))
			b.ReportAllocs()
			for b.Loop() {
				batch.SetBaseOffset(l.End())
				entries[0].MaxTSOffset = l.End()
				if err := l.Append(batch, entries); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkLookup finds batches of 16 KiB in a segment of 1 GiB by offset and
// by timestamp: the index, then the headers from there on, and for a timestamp
// the records of the batch.
func BenchmarkLookup(b *testing.B) {
	l := openLog(b, b.TempDir(), Config{SegmentBytes: 1 << 30, IndexIntervalBytes: 4096, IndexBytes: 10 << 20}, Deps{})
	defer l.Remove()
	const records = 15
	batch := batchAt(0, records, 1024, record.None)
	first := batch.MaxTimestamp() - records + 1
	for written := int64(0); written < 1<<30-1<<20; written += batch.Size() {
		batch.SetBaseOffset(l.End())
		binary.BigEndian.PutUint64(batch[27:], uint64(first)+uint64(l.End())) // records have theirs from it
		batch.SetCreateTime(first + int64(l.End()) + records - 1)
		if err := l.Append(batch, []Entry{{Batch: batch, MaxTSOffset: l.End() + records - 1}}); err != nil {
			b.Fatal(err)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	b.Run("offset", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			run, err := l.Read(record.Offset(rnd.Int64N(int64(l.End()))), 1, l.End(), true)
			if err != nil {
				b.Fatal(err)
			}
			run.Span.Release()
		}
	})
	b.Run("timestamp", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			want := record.Offset(rnd.Int64N(int64(l.End())))
			found, err := l.OffsetForTimestamp(first+int64(want), 0, l.End())
			if err != nil || found.Offset != want {
				b.Fatalf("offset %d, %v, want %d", found.Offset, err, want)
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	l := openLog(b, b.TempDir(), Config{SegmentBytes: 16 << 20}, Deps{})
	defer l.Remove()
	mustAdd(b, l, 2000, 16, 1024)
	if err := l.Sync(); err != nil {
		b.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	for name, last := range map[string]int64{"sealed": 10000, "anywhere": int64(l.End())} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				run, err := l.Read(record.Offset(rnd.Int64N(last)), 1<<20, l.End(), true)
				if err != nil {
					b.Fatal(err)
				}
				run.Span.Release()
			}
		})
	}
}

// BenchmarkReadReopened is BenchmarkRead of a log that was closed: bytes that
// were compared already, and the first time.
func BenchmarkReadReopened(b *testing.B) {
	dir := b.TempDir()
	cfg := Config{SegmentBytes: 16 << 20}
	l := openLog(b, dir, cfg, Deps{})
	mustAdd(b, l, 2000, 16, 1024)
	end := int64(l.End())
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	l = openLog(b, dir, cfg, Deps{})
	defer l.Remove()
	rnd := rand.New(rand.NewPCG(1, 1))
	read := func(from record.Offset) {
		run, err := l.Read(from, 1<<20, l.End(), true)
		if err != nil {
			b.Fatal(err)
		}
		run.Span.Release()
	}
	b.Run("first", func(b *testing.B) {
		b.SetBytes(1 << 20)
		b.ReportAllocs()
		for b.Loop() {
			for _, s := range *l.segs.Load() {
				s.known.doubt(s.size.Load())
			}
			read(record.Offset(rnd.Int64N(end * 9 / 10)))
		}
	})
	for _, s := range *l.segs.Load() {
		s.known.doubt(s.size.Load())
	}
	b.Run("part", func(b *testing.B) {
		read(2000)
		b.ReportAllocs()
		for b.Loop() {
			read(2000 + record.Offset(rnd.Int64N(200)))
		}
	})
	b.Run("again", func(b *testing.B) {
		if err := readAll(l, 0, record.Offset(end)); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			read(record.Offset(rnd.Int64N(end * 9 / 10)))
		}
	})
}
