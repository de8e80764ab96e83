"""Documents are read as servers write them, and refused where they are not what they should be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhostfs.backends.s3.client import documents
from vhostfs.backends.s3.store import BrokenAnswerError, StoreError

LISTING = """<?xml version="1.0"?><ListBucketResult {space}>{more}
<Contents><Key>a%20b</Key><LastModified>2026-11-21T01:02:03.123Z</LastModified><ETag>&quot;e&quot;</ETag><Size>5</Size>
</Contents><CommonPrefixes><Prefix>d%2F</Prefix></CommonPrefixes></ListBucketResult>"""


@pytest.mark.parametrize("space", ["", 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'])
@pytest.mark.parametrize("encoding", ["", "<EncodingType>url</EncodingType>"])
def test_a_page_is_read_whatever_its_namespace_and_encoding(space: str, encoding: str) -> None:
    """Servers differ in both."""
    page = documents.page(LISTING.format(space=space, more=encoding).encode())
    [item] = page.objects
    assert item.key == ("a b" if encoding else "a%20b")
    assert (item.size, item.etag, item.modified) == (5, '"e"', 1_795_222_923_123_000_000)
    assert item.storage_class == "STANDARD"
    assert list(page.prefixes) == ["d/" if encoding else "d%2F"]
    assert page.next is None


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"not xml",
        b"<ListBucketResult>",
        b"<html></html>",
        b"<!DOCTYPE x [<!ENTITY a 'aaaa'>]><ListBucketResult>&a;</ListBucketResult>",
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        b"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>a</Key><Size>-1</Size></Contents></ListBucketResult>",
        LISTING.replace("2026-11-21", "2026-13-21").format(space="", more="").encode(),
        LISTING.replace("2026", "soon").format(space="", more="").encode(),
    ],
)
def test_a_page_that_is_none_is_refused(document: bytes) -> None:
    """Never taken for an empty one."""
    with pytest.raises(BrokenAnswerError):
        documents.page(document)


@pytest.mark.parametrize("key", ["a%20b", "a b"])
def test_a_listing_of_uploads_that_can_be_read_both_ways_is_not_read(key: str) -> None:
    """Ceph encodes keys, and does not say so."""
    listing = "<ListMultipartUploadsResult>{told}<Upload><Key>{key}</Key><UploadId>u</UploadId>" + (
        "<Initiated>2026-11-21T01:02:03Z</Initiated></Upload></ListMultipartUploadsResult>"
    )
    told = listing.format(told="<EncodingType>url</EncodingType>", key=key).encode()
    untold = listing.format(told="", key=key).encode()
    assert [each.key for each in documents.uploads(told)[0]] == ["a b"]
    assert [each.key for each in documents.uploads(untold, wants_encoding=False)[0]] == [key]
    if "%" in key:
        with pytest.raises(documents.UntoldEncodingError):
            documents.uploads(untold)


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: f"<Error>{text}</Error>".encode()))
def test_whatever_a_server_sends_ends_in_a_document_or_in_an_error_of_the_stores(document: bytes) -> None:
    """Nothing else is raised."""
    readers = (documents.page, documents.parts, documents.uploads, documents.result_etag, documents.undeleted)
    for reader in readers:
        try:
            reader(document)
        except StoreError:
            continue
    assert documents.refusal(document) is not None


def test_errors_are_read_with_the_region_that_they_name() -> None:
    """And without a body they are empty."""
    document = (
        b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>m</Message><Region>eu</Region></Error>"
    )
    assert documents.refusal(document) == documents.Refusal("AuthorizationHeaderMalformed", "m", "eu")
    assert documents.refusal(b"") == documents.Refusal("", "")


def test_what_was_not_deleted_is_read() -> None:
    """With the reason."""
    failed = b"<Error><Key>a</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
    found = documents.undeleted(b"<DeleteResult>" + failed + b"</DeleteResult>")
    assert found == {"a": documents.Refusal("AccessDenied", "no")}
