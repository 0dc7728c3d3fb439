package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"runtime"
	"runtime/metrics"
	"strconv"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

var tagsType = reflect.TypeFor[kmsg.Tags]()

// fill sets every field of a kmsg struct to something random.
func fill(t *rapid.T, v reflect.Value) {
	if v.Type() == tagsType {
		tags := v.Addr().Interface().(*kmsg.Tags)
		for range rapid.IntRange(0, 9).Draw(t, "tags") - 7 {
			// Over what Kafka uses itself.
			tags.Set(rapid.Uint32Range(100, 1<<20).Draw(t, "tag"), rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(t, "value"))
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).Name != "Version" {
				fill(t, v.Field(i))
			}
		}
	case reflect.Pointer:
		if rapid.Bool().Draw(t, "set") {
			v.Set(reflect.New(v.Type().Elem()))
			fill(t, v.Elem())
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "bytes"))
			return
		}
		n := rapid.IntRange(-1, 3).Draw(t, "len")
		if n < 0 {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(t, v.Index(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(t, v.Index(i))
		}
	case reflect.String:
		v.SetString(string(rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "string")))
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, "bool"))
	case reflect.Uint8:
		v.SetUint(uint64(rapid.Byte().Draw(t, "byte")))
	case reflect.Uint16:
		v.SetUint(uint64(rapid.Uint16().Draw(t, "uint16")))
	case reflect.Int8:
		v.SetInt(int64(rapid.Int8().Draw(t, "int8")))
	case reflect.Int16:
		v.SetInt(int64(rapid.Int16().Draw(t, "int16")))
	case reflect.Int32:
		v.SetInt(int64(rapid.Int32().Draw(t, "int32")))
	case reflect.Int64:
		v.SetInt(rapid.Int64().Draw(t, "int64"))
	default:
		panic("a kind that no kmsg struct had: " + v.Kind().String())
	}
}

// clearTags empties every UnknownTags below v: our decoder skips them.
func clearTags(v reflect.Value) {
	if v.Type() == tagsType {
		v.SetZero()
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			clearTags(v.Field(i))
		}
	case reflect.Pointer:
		if !v.IsNil() {
			clearTags(v.Elem())
		}
	case reflect.Slice:
		if k := v.Type().Elem().Kind(); k == reflect.Struct {
			for i := range v.Len() {
				clearTags(v.Index(i))
			}
		}
	}
}

// replaceText puts U+FFFD for what is not UTF-8 in a request's strings, which
// kmsg leaves as they came.
func replaceText(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			replaceText(v.Field(i))
		}
	case reflect.Pointer:
		if !v.IsNil() {
			replaceText(v.Elem())
		}
	case reflect.Slice:
		if k := v.Type().Elem().Kind(); k == reflect.Struct || k == reflect.String {
			for i := range v.Len() {
				replaceText(v.Index(i))
			}
		}
	case reflect.String:
		v.SetString(replaceInvalid([]byte(v.String())))
	}
}

// reference decodes with kmsg. Only for bytes that are known to be sane.
func reference(t interface{ Fatalf(string, ...any) }, key, version int16, body []byte) kmsg.Request {
	req := kmsg.RequestForKey(key)
	req.SetVersion(version)
	if err := req.ReadFrom(body); err != nil {
		t.Fatalf("kmsg refuses key %d version %d: %v\n%s", key, version, err, hex.Dump(body))
	}
	clearTags(reflect.ValueOf(req))
	replaceText(reflect.ValueOf(req))
	return req
}

// encoded draws a request of the key and version. Strings that may not be
// null in that version are set.
func encoded(t *rapid.T, key, version int16) []byte {
	req := kmsg.RequestForKey(key)
	req.SetVersion(version)
	fill(t, reflect.ValueOf(req).Elem())
	return req.AppendTo(nil)
}

// eachVersion calls f for every key and version that is answered.
func eachVersion(f func(api *apiSpec, version int16)) {
	for i := range apis {
		for v := apis[i].min; v <= apis[i].max; v++ {
			f(&apis[i], v)
		}
	}
}

func drawVersion(t *rapid.T) (*apiSpec, int16) {
	api := &apis[rapid.IntRange(0, len(apis)-1).Draw(t, "api")]
	return api, rapid.Int16Range(api.min, api.max).Draw(t, "version")
}

// What kmsg encodes is decoded as kmsg decodes it, for every key and version.
func TestDecodeEqualsKmsg(t *testing.T) {
	eachVersion(func(api *apiSpec, v int16) {
		t.Run(api.name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				body := encoded(t, api.key, v)
				got, err := DecodeRequest(api.key, v, body)
				if err != nil {
					t.Fatalf("version %d: %v\n%s", v, err, hex.Dump(body))
				}
				if got.Key() != api.key || got.GetVersion() != v {
					t.Fatalf("decoded to key %d version %d", got.Key(), got.GetVersion())
				}
				if want := reference(t, api.key, v, body); !reflect.DeepEqual(got, want) {
					t.Fatalf("version %d:\n got %+v\nwant %+v\n%s", v, got, want, hex.Dump(body))
				}
				trailing, err := DecodeRequest(api.key, v, append(bytes.Clone(body), 0, 1, 2))
				if err != nil || !reflect.DeepEqual(trailing, got) {
					t.Fatalf("version %d with trailing bytes: %+v, %v", v, trailing, err)
				}
			})
		})
	})
}

// Every proper prefix of a request without optional parts at its end is
// refused, and no cut panics.
func TestDecodeTruncated(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		api, v := drawVersion(t)
		body := encoded(t, api.key, v)
		for n := range body {
			if _, err := DecodeRequest(api.key, v, body[:n]); !errors.Is(err, ErrMalformed) {
				t.Fatalf("%s %d: the first %d of %d bytes: error %v", api.name, v, n, len(body), err)
			}
		}
	})
}

// allocates says how many bytes f allocates at most; about, at once, or,
// where that is over limit, exactly.
func allocates(limit uint64, f func()) uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	before := sample[0].Value.Uint64()
	f()
	metrics.Read(sample)
	about := sample[0].Value.Uint64() - before
	if about <= limit {
		return about
	}
	var m, n runtime.MemStats // what it counts is up to date, but the world stops
	runtime.ReadMemStats(&m)
	f()
	runtime.ReadMemStats(&n)
	return n.TotalAlloc - m.TotalAlloc
}

// checkHostile decodes anything: no panic, allocation in proportion, what is
// accepted is what kmsg makes of it, and stays the same when it is encoded
// and decoded again.
func checkHostile(t interface{ Fatalf(string, ...any) }, key, version int16, body []byte) {
	// 80 is the largest struct an element of two bytes could ask for with
	// allocator's rounding; 64 KiB is for what else runs in the test.
	limit := uint64(min(80*len(body), decodeSlack+2*decodeFactor*len(body)) + 64<<10)
	var got kmsg.Request
	var err error
	if used := allocates(limit, func() { got, err = DecodeRequest(key, version, body) }); used > limit {
		t.Fatalf("key %d version %d: %d bytes allocated for %d", key, version, used, len(body))
	}
	switch {
	case err == nil:
		again, err := DecodeRequest(key, version, got.AppendTo(nil))
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Fatalf("key %d version %d:\n got %+v\nthen %+v, %v\n%s", key, version, got, again, err, hex.Dump(body))
		}
		if tp, ok := got.(*kmsg.DescribeTopicPartitionsRequest); ok && tp.Cursor == nil {
			return // Kafka takes any negative byte before the cursor as null, kmsg only -1
		}
		if want := reference(t, key, version, body); !reflect.DeepEqual(got, want) {
			t.Fatalf("key %d version %d:\n got %+v\nwant %+v\n%s", key, version, got, want, hex.Dump(body))
		}
	case got != nil:
		t.Fatalf("key %d version %d: a request and an error %v", key, version, err)
	case !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnsupported):
		t.Fatalf("key %d version %d: error %v is of no kind", key, version, err)
	}
}

// mutate changes some bytes, inserts, cuts, and sets extreme lengths.
func mutate(t *rapid.T, b []byte) []byte {
	b = bytes.Clone(b)
	for range rapid.IntRange(1, 4).Draw(t, "changes") {
		if len(b) == 0 {
			return b
		}
		i := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		switch rapid.IntRange(0, 4).Draw(t, "how") {
		case 0:
			b[i] = rapid.Byte().Draw(t, "byte")
		case 1:
			b[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		case 2:
			b = b[:i]
		case 3:
			n := copy(b[i:], rapid.SampledFrom([][]byte{
				{0xff, 0xff, 0xff, 0xff, 0x0f}, {0x7f, 0xff, 0xff, 0xff}, {0xff, 0xff, 0xff, 0xff}, {0x80, 0x80, 0x80, 0x80, 0x80}, {0x7f, 0xff},
			}).Draw(t, "lengths"))
			_ = n
		case 4:
			b = append(b[:i:i], append(rapid.SliceOfN(rapid.Byte(), 1, 8).Draw(t, "insert"), b[i:]...)...)
		}
	}
	return b
}

func TestDecodeHostile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		api, v := drawVersion(t)
		body := encoded(t, api.key, v)
		for range 20 {
			checkHostile(t, api.key, v, mutate(t, body))
		}
		checkHostile(t, api.key, v, rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "noise"))
	})
}

// bombs are short bodies that ask for much, and long ones that ask for as
// much as their length can justify.
func bombs() (all []struct {
	name string
	key  int16
	v    int16
	body []byte
}) {
	add := func(name string, key, v int16, body []byte) {
		all = append(all, struct {
			name string
			key  int16
			v    int16
			body []byte
		}{name, key, v, body})
	}
	add("ApiVersions tag count", 18, 3, []byte{1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f})
	add("ApiVersions tag length", 18, 3, []byte{1, 1, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	add("Metadata array", 3, 1, []byte{0x7f, 0xff, 0xff, 0xff})
	add("Metadata compact array", 3, 12, []byte{0xff, 0xff, 0xff, 0xff, 0x0f})
	const n = 1 << 20
	ones := bytes.Repeat([]byte{1}, n)
	// 2^20 - 4 empty things in the first array of each request.
	compact := append([]byte{0xfc, 0xff, 0x3f}, ones...)
	add("a million empty topics", 3, 9, compact)
	add("a million empty topics to delete records of", 21, 2, compact)
	add("a million partitions", 1, 12, append(append(make([]byte, 21), compact...), ones...))
	add("a million empty tags", 18, 3, append([]byte{1, 1, 0xfc, 0xff, 0x1f}, make([]byte, n)...))
	add("a million groups", 15, 5, compact)
	add("a million strings", 16, 4, compact)
	return all
}

func TestDecodeBombs(t *testing.T) {
	for _, b := range bombs() {
		t.Run(b.name, func(t *testing.T) { checkHostile(t, b.key, b.v, b.body) })
	}
}

// What a request may have answered is bounded, not only what it takes itself.
func TestDecodeListed(t *testing.T) {
	for _, n := range []int{maxListed / 2, maxListed/2 + 1} {
		req := kmsg.NewPtrElectLeadersRequest()
		req.Version = 2
		half := kmsg.ElectLeadersRequestTopic{Topic: "t", Partitions: make([]int32, n)}
		req.Topics = []kmsg.ElectLeadersRequestTopic{half, half}
		_, err := DecodeRequest(43, 2, req.AppendTo(nil))
		if over := 2*n > maxListed; over != errors.Is(err, ErrMalformed) || !over && err != nil {
			t.Errorf("%d partitions: %v", 2*n, err)
		}
	}
}

func TestDecodeUnsupported(t *testing.T) {
	for key := int16(-1); key < 130; key++ {
		for v := int16(-1); v < 25; v++ {
			_, err := DecodeRequest(key, v, nil)
			api := lookup(key)
			answered := api != nil && v >= api.min && v <= api.max
			if errors.Is(err, ErrUnsupported) == answered {
				t.Errorf("key %d version %d: error %v", key, v, err)
			}
		}
	}
}

// The version table is within what kmsg can encode.
func TestVersionTable(t *testing.T) {
	last := int16(-1)
	for i, v := range Supported() {
		api := apis[i]
		if v.Key <= last {
			t.Errorf("key %d is out of order", v.Key)
		}
		last = v.Key
		req := kmsg.RequestForKey(v.Key)
		if req == nil || v.Max > req.MaxVersion() || v.Min > v.Max || api.advertise > api.min {
			t.Errorf("key %d: %d–%d", v.Key, v.Min, v.Max)
		}
		for version := api.min; version <= api.max; version++ {
			req.SetVersion(version)
			if req.IsFlexible() != (version >= api.flexible) {
				t.Errorf("%s %d: flexible differs", api.name, version)
			}
		}
	}
	if v := Supported()[0]; v != (VersionRange{0, 0, 13}) {
		t.Errorf("Produce is advertised as %v", v)
	}
}

// Records are not copied: they alias the frame.
func TestProduceRecordsAlias(t *testing.T) {
	body := produceBody(9, 10, 100)
	req, err := DecodeRequest(0, 9, body)
	if err != nil {
		t.Fatal(err)
	}
	clear(body)
	for _, p := range req.(*kmsg.ProduceRequest).Topics[0].Partitions {
		if len(p.Records) != 100 || !bytes.Equal(p.Records, make([]byte, 100)) {
			t.Fatalf("records were copied: %x", p.Records)
		}
	}
}

func produceBody(version int16, partitions, size int) []byte {
	p := kmsg.NewPtrProduceRequest()
	p.Version = version
	topic := kmsg.ProduceRequestTopic{Topic: "flights", TopicID: [16]byte{1}}
	for i := range partitions {
		topic.Partitions = append(topic.Partitions, kmsg.ProduceRequestTopicPartition{Partition: int32(i), Records: bytes.Repeat([]byte{7}, size)})
	}
	p.Topics = append(p.Topics, topic)
	return p.AppendTo(nil)
}

// fuzzDecoder is the fuzz target of one key: any version, any body.
func fuzzDecoder(f *testing.F, key int16) {
	api := lookup(key)
	for v := api.min; v <= api.max; v++ {
		step := byte(v - api.min)
		req := kmsg.RequestForKey(key)
		req.SetVersion(v)
		f.Add(step, req.AppendTo(nil))
		full := rapid.Custom(func(t *rapid.T) []byte { return encoded(t, key, v) })
		for seed := range 3 {
			f.Add(step, full.Example(seed))
		}
	}
	for _, b := range bombs() {
		if b.key == key && len(b.body) < 100 {
			f.Add(byte(b.v-api.min), b.body)
		}
	}
	f.Fuzz(func(t *testing.T, step byte, body []byte) {
		checkHostile(t, key, api.min+int16(step)%(api.max-api.min+1), body)
	})
}

func FuzzHeader(f *testing.F) {
	f.Add(frame(1, heartbeat(0))[4:], false)
	f.Add(frame(1, heartbeat(4))[4:], true)
	f.Fuzz(func(t *testing.T, b []byte, flexible bool) {
		h, body, err := parseHeader(b, flexible)
		if err == nil && len(body)+len(h.clientID)+minFrame > len(b) {
			t.Fatalf("%d bytes of body and %d of client id in a frame of %d", len(body), len(h.clientID), len(b))
		}
	})
}

func BenchmarkDecodeProduce(b *testing.B) {
	for name, size := range map[string]int{"16KiB": 16 << 10, "1MiB": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			body := produceBody(11, 1, size)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := DecodeRequest(0, 11, body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecodeFetch(b *testing.B) {
	for _, partitions := range []int{1, 1000} {
		b.Run(strconv.Itoa(partitions), func(b *testing.B) {
			f := kmsg.NewPtrFetchRequest()
			f.Version = 17
			topic := kmsg.NewFetchRequestTopic()
			topic.TopicID = [16]byte{1}
			for i := range partitions {
				p := kmsg.NewFetchRequestTopicPartition()
				p.Partition, p.FetchOffset, p.PartitionMaxBytes = int32(i), 1_000_000, 1<<20
				topic.Partitions = append(topic.Partitions, p)
			}
			f.Topics = append(f.Topics, topic)
			body := f.AppendTo(nil)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := DecodeRequest(1, 17, body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func byteSize(n int) string {
	if n >= 1<<20 {
		return "MiB"
	}
	return "KiB"
}
