package main

import (
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/uuid"
)

// sboms writes, for each binary, what it was made of, as the binary itself
// tells: CycloneDX 1.6, JSON.
func (r *release) sboms(dir string) error {
	for _, arch := range arches {
		binary := filepath.Join(dir, r.binaryName(arch))
		bom, err := r.sbom(binary, arch)
		if err != nil {
			return err
		}
		if err := writeBOM(binary+".cdx.json", bom); err != nil {
			return err
		}
	}
	return nil
}

func writeBOM(path string, bom *cdx.BOM) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return cdx.NewBOMEncoder(f, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).EncodeVersion(bom, cdx.SpecVersion1_6)
}

// purl names a Go module as https://github.com/package-url does.
func purl(path, version string) string { return "pkg:golang/" + path + "@" + version }

func (r *release) sbom(binary, arch string) (*cdx.BOM, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, fmt.Errorf("%s does not tell what it is made of: %w", binary, err)
	}
	sum, err := fileSum(binary)
	if err != nil {
		return nil, err
	}
	self := purl(info.Main.Path, strings.ReplaceAll(r.packageVersion, "+", "%2B")) + "?goos=linux&goarch=" + arch
	firn := cdx.Component{
		Type: cdx.ComponentTypeApplication, BOMRef: self, Name: "firn", Version: r.packageVersion, PackageURL: self,
		Licenses: &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}},
		Hashes:   &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum)}},
	}
	std := strings.TrimPrefix(info.GoVersion, "go")
	components := []cdx.Component{{
		Type: cdx.ComponentTypeLibrary, BOMRef: purl("std", std), Name: "std", Version: std, PackageURL: purl("std", std),
		Description: "Go's standard library and runtime",
	}}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		c := cdx.Component{Type: cdx.ComponentTypeLibrary, BOMRef: purl(m.Path, m.Version), Name: m.Path, Version: m.Version, PackageURL: purl(m.Path, m.Version)}
		if h1, ok := strings.CutPrefix(m.Sum, "h1:"); ok { // of go.sum: SHA-256 over the module's files
			raw, err := base64.StdEncoding.DecodeString(h1)
			if err != nil {
				return nil, fmt.Errorf("checksum of %s: %w", m.Path, err)
			}
			c.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(raw)}}
		}
		components = append(components, c)
	}
	refs := []string{}
	for _, c := range components {
		refs = append(refs, c.BOMRef)
	}
	bom := cdx.NewBOM()
	bom.SerialNumber = uuid.NewSHA1(uuid.NameSpaceURL, append([]byte(self), sum...)).URN()
	bom.Metadata = &cdx.Metadata{Timestamp: r.when.Format("2006-01-02T15:04:05Z"), Component: &firn}
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: self, Dependencies: &refs}}
	return bom, nil
}
